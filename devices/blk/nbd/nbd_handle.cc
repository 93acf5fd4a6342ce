// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_handle.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include <libnbd.h>
#include <netdb.h>
#include <poll.h>
#include <sys/un.h>

#include <fmt/format.h>

namespace outrigger::blk {
namespace {

/// What every server takes, if it says nothing else (NBD protocol, "Block size constraints").
constexpr uint64_t kTransferBytesUsual = uint64_t{32} << 20;
constexpr uint64_t kBlockBytesMax = 65536;
/// Sizes beyond are refused: an offset is an off_t at most servers.
constexpr uint64_t kSizeBytesMax = uint64_t{1} << 62;

using Clock = std::chrono::steady_clock;

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

Result<NbdTarget> resolve_socket(const NbdUri& uri) {
    NbdTarget target{.uri = uri};
    sockaddr_un address = {};
    if (uri.socket_path.size() >= sizeof address.sun_path) {
        return refuse(fmt::format("the socket path of {} is too long", uri.text));
    }
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, uri.socket_path.c_str(), uri.socket_path.size() + 1);
    NbdAddress& only = target.addresses.emplace_back();
    std::memcpy(&only.storage, &address, sizeof address);
    only.bytes = sizeof address;
    return target;
}

/// A number that the server gives for `type`, or `otherwise` when it gives none.
uint64_t size_of(nbd_handle* handle, int type, uint64_t otherwise) {
    const int64_t size = ::nbd_get_block_size(handle, type);
    return size > 0 ? static_cast<uint64_t>(size) : otherwise;
}

Result<void> set_up(nbd_handle* handle, const NbdUri& uri) {
    bool done = ::nbd_set_export_name(handle, uri.export_name.c_str()) == 0 &&
                // Our requests are right; the server's answers are what is to be checked.
                ::nbd_set_strict_mode(handle, 0) == 0;
    if (uri.tls) {
        done = done && ::nbd_set_tls(handle, LIBNBD_TLS_REQUIRE) == 0 &&
               (uri.tls_user.empty() || ::nbd_set_tls_username(handle, uri.tls_user.c_str()) == 0);
    }
    if (!uri.tls_psk_file.empty()) {
        done = done && ::nbd_set_tls_psk_file(handle, uri.tls_psk_file.c_str()) == 0;
    }
    if (!uri.tls_certificates.empty()) {
        done = done && ::nbd_set_tls_certificates(handle, uri.tls_certificates.c_str()) == 0 &&
               ::nbd_set_tls_verify_peer(handle, true) == 0;
    }
    if (!done) {
        return refuse(
            fmt::format("cannot set up a connection to {}: {}", uri.text, last_nbd_error()));
    }
    return {};
}

/// Lets libnbd do what it can, and waits for the server until `deadline`. False: too late.
bool turn(nbd_handle* handle, Clock::time_point deadline) {
    const unsigned direction = ::nbd_aio_get_direction(handle);
    pollfd waited{.fd = ::nbd_aio_get_fd(handle), .events = 0, .revents = 0};
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        waited.events |= POLLIN;
    }
    if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        waited.events |= POLLOUT;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
        return false;
    }
    if (::poll(&waited, 1, static_cast<int>(left.count())) <= 0) {
        return errno == EINTR;
    }
    const bool readable = (waited.revents & (POLLIN | POLLHUP | POLLERR)) != 0;
    if (readable && (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        (void)::nbd_aio_notify_read(handle);
    } else {
        (void)::nbd_aio_notify_write(handle);
    }
    return true;
}

Result<NbdHandle> connect_to_address(const NbdTarget& target,
                                     size_t index,
                                     Clock::time_point deadline) {
    NbdHandle handle = OUTRIGGER_TRY(begin_nbd_connection(target, index));
    while (::nbd_aio_is_ready(handle.get()) != 1) {
        if (nbd_has_failed(handle.get())) {
            return refuse(last_nbd_error());
        }
        if (!turn(handle.get(), deadline)) {
            return refuse("no answer in time (--nbd-timeout)");
        }
    }
    return handle;
}

}  // namespace

bool NbdExport::can_stand_for(const NbdExport& before) const {
    return size_bytes == before.size_bytes && block_bytes_min <= before.block_bytes_min &&
           transfer_bytes_max >= before.transfer_bytes_max && (!read_only || before.read_only) &&
           (can_flush || !before.can_flush) && (can_fua || !before.can_fua) &&
           (can_trim || !before.can_trim) && (can_zero || !before.can_zero) &&
           (can_multi_conn || !before.can_multi_conn);
}

bool nbd_has_failed(nbd_handle* handle) {
    return ::nbd_aio_is_dead(handle) == 1 || ::nbd_aio_is_closed(handle) == 1 ||
           // It is as new again when no address has answered.
           ::nbd_aio_is_created(handle) == 1;
}

void CloseNbdHandle::operator()(nbd_handle* handle) const {
    ::nbd_close(handle);
}

std::string last_nbd_error() {
    const char* const text = ::nbd_get_error();
    std::string line = text != nullptr ? text : "unknown error";
    // A server's own words may be in it.
    std::ranges::replace_if(
        line, [](char character) { return character < ' ' || character > '~'; }, '?');
    return line.substr(0, 300);
}

Result<NbdTarget> resolve_nbd_target(const NbdUri& uri) {
    if (!uri.socket_path.empty()) {
        return resolve_socket(uri);
    }
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int status =
        ::getaddrinfo(uri.host.c_str(), std::to_string(uri.port).c_str(), &hints, &found);
    if (status != 0) {
        return refuse(
            fmt::format("cannot find the host of {}: {}", uri.text, ::gai_strerror(status)));
    }
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, ::freeaddrinfo);
    NbdTarget target{.uri = uri};
    for (const addrinfo* each = found;
         each != nullptr && target.addresses.size() < NbdTarget::kAddressesMax;
         each = each->ai_next) {
        NbdAddress& address = target.addresses.emplace_back();
        std::memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
        address.bytes = each->ai_addrlen;
    }
    return target;
}

Result<NbdHandle> begin_nbd_connection(const NbdTarget& target, size_t index) {
    NbdHandle handle(::nbd_create());
    if (!handle) {
        return refuse(fmt::format("cannot make a connection: {}", last_nbd_error()));
    }
    OUTRIGGER_TRY(set_up(handle.get(), target.uri));
    if (!target.uri.tls_certificates.empty()) {
        // libnbd checks the certificate of a host that it was given itself, and of no other. This
        // one is an address, so there is nothing to resolve.
        const std::string port = std::to_string(target.uri.port);
        if (::nbd_aio_connect_tcp(handle.get(), target.uri.host.c_str(), port.c_str()) != 0) {
            return refuse(last_nbd_error());
        }
        return handle;
    }
    const NbdAddress& to = target.addresses[index];
    // SAFETY: sockets' addresses are passed so; the kernel knows which by its family.
    const auto* const address = reinterpret_cast<const sockaddr*>(&to.storage);
    if (::nbd_aio_connect(handle.get(), address, to.bytes) != 0) {
        return refuse(last_nbd_error());
    }
    return handle;
}

Result<NbdExport> examine_nbd_export(nbd_handle* handle) {
    const int64_t size = ::nbd_get_size(handle);
    if (size < 0 || static_cast<uint64_t>(size) > kSizeBytesMax) {
        return refuse("its size cannot be right");
    }
    const uint64_t least = size_of(handle, LIBNBD_SIZE_MINIMUM, 1);
    const uint64_t preferred = size_of(handle, LIBNBD_SIZE_PREFERRED, 4096);
    const uint64_t most = size_of(handle, LIBNBD_SIZE_MAXIMUM, kTransferBytesUsual);
    if (!std::has_single_bit(least) || least > kBlockBytesMax || most < least) {
        return refuse(fmt::format("its block sizes, {} to {}, cannot be right", least, most));
    }
    const auto has = [handle](int (*ask)(nbd_handle*)) { return ask(handle) == 1; };
    return NbdExport{
        .size_bytes = static_cast<uint64_t>(size),
        .block_bytes_min = static_cast<uint32_t>(least),
        .block_bytes_preferred = static_cast<uint32_t>(
            std::has_single_bit(preferred) ? std::min<uint64_t>(preferred, 1 << 30) : least),
        .transfer_bytes_max =
            static_cast<uint32_t>(std::min(most, kTransferBytesUsual) / least * least),
        .read_only = has(::nbd_is_read_only),
        .can_flush = has(::nbd_can_flush),
        .can_fua = has(::nbd_can_fua),
        .can_trim = has(::nbd_can_trim),
        .can_zero = has(::nbd_can_zero),
        .can_multi_conn = has(::nbd_can_multi_conn),
    };
}

Result<NbdHandle> connect_to_nbd(NbdTarget& target, std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    const size_t count = target.addresses.size();
    std::string problem;
    for (size_t i = 0; i < count; ++i) {
        const auto now = Clock::now();
        const auto share = (deadline - now) / static_cast<int64_t>(count - i);
        auto handle = connect_to_address(target, i, now + share);
        if (handle) {
            std::swap(target.addresses[0], target.addresses[i]);
            return handle;
        }
        problem = std::move(handle).error().message;
    }
    return refuse(fmt::format("cannot connect to {}: {}", target.uri.text, problem));
}

}  // namespace outrigger::blk
