// SPDX-License-Identifier: Apache-2.0
#include "devices/net/peer_socket.h"

#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::net {
namespace {

sockaddr_un to_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    OUTRIGGER_ASSERT(path.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

template <class Address>
const sockaddr* generic(const Address& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

Result<void> check_peer_path(const std::string& path) {
    if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path)) {
        return failure(Error{.message = "the path " + path +
                                        " is no path of a Unix socket: it has 1 to 107 bytes"});
    }
    return {};
}

UniqueFd connect_to_peer(const std::string& path, int type) {
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const sockaddr_un address = to_address(path);
    if (socket.valid() && ::connect(socket.get(), generic(address), sizeof address) != 0) {
        const int os_error = errno;
        socket.reset();
        errno = os_error;
    }
    return socket;
}

bool connect_datagrams(int socket, const std::string& path) {
    const sockaddr_un address = to_address(path);
    return ::connect(socket, generic(address), sizeof address) == 0;
}

void disconnect_datagrams(int socket) {
    sockaddr nobody{};
    nobody.sa_family = AF_UNSPEC;
    (void)::connect(socket, &nobody, sizeof nobody);
}

UniqueFd open_nameless_datagrams() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket.valid()) {
        (void)platform::name_socket(socket.get());
    }
    return socket;
}

void enlarge_buffers(int socket, int bytes) {
    (void)::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    (void)::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

}  // namespace outrigger::net
