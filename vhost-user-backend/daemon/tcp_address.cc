// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/tcp_address.h"

#include <charconv>
#include <cstdint>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>

namespace outrigger {
namespace {

/// Clients that wait to be accepted.
constexpr int kBacklog = 16;

std::optional<uint16_t> parse_port(std::string_view text) {
    uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    const bool whole = error == std::errc() && end == text.data() + text.size();
    return whole && port != 0 ? std::optional(port) : std::nullopt;
}

template <class Address>
TcpAddress to_generic(const Address& address) {
    TcpAddress out;
    static_assert(sizeof address <= sizeof out.address);
    std::memcpy(&out.address, &address, sizeof address);
    out.bytes = sizeof address;
    return out;
}

const sockaddr* generic(const TcpAddress& address) {
    // SAFETY: the socket calls take every address type through this pointer type and tell them
    // apart by the family.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return reinterpret_cast<const sockaddr*>(&address.address);
}

}  // namespace

std::optional<TcpAddress> parse_tcp_address(std::string_view text) {
    const size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) {
        return std::nullopt;
    }
    const auto port = parse_port(text.substr(colon + 1));
    std::string host(text.substr(0, colon));
    if (!port) {
        return std::nullopt;
    }
    if (host.starts_with('[') && host.ends_with(']')) {
        host = host.substr(1, host.size() - 2);
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        address.sin6_port = htons(*port);
        return ::inet_pton(AF_INET6, host.c_str(), &address.sin6_addr) == 1
                   ? std::optional(to_generic(address))
                   : std::nullopt;
    }
    if (host == "localhost") {
        host = "127.0.0.1";
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(*port);
    return ::inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1
               ? std::optional(to_generic(address))
               : std::nullopt;
}

Result<UniqueFd> listen_at_tcp(const TcpAddress& address, std::string_view text) {
    UniqueFd fd(::socket(address.address.ss_family, SOCK_STREAM, 0));
    if (!fd.valid() || ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0 ||
        ::fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot create a socket"));
    }
    // Connections of a process before this one linger for a minute.
    const int on = 1;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), generic(address), address.bytes) != 0 ||
        ::listen(fd.get(), kBacklog) != 0) {
        return failure(error_from_errno("cannot listen at " + std::string(text)));
    }
    return fd;
}

Result<UniqueFd> listen_on_tcp(UniqueFd fd, const TcpAddress& address) {
    TcpAddress own;
    own.bytes = sizeof own.address;
    // SAFETY: as in generic(); getsockname() writes at most `bytes`.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const out = reinterpret_cast<sockaddr*>(&own.address);
    int listens = 0;
    socklen_t size = sizeof listens;
    if (::getsockname(fd.get(), out, &own.bytes) != 0 || own.bytes != address.bytes ||
        std::memcmp(&own.address, &address.address, own.bytes) != 0 ||
        ::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens != 1) {
        return failure(Error{.message = "what the keeper has does not listen at --metrics"});
    }
    return fd;
}

}  // namespace outrigger
