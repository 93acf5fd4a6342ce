// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/peer_name.h"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include <sys/socket.h>
#include <sys/un.h>

namespace outrigger {

bool has_named_peer(int fd) {
    sockaddr_un address{};
    socklen_t bytes = sizeof address;
    // SAFETY: the socket API takes every address family through sockaddr and writes sizeof(address)
    // bytes at most; of a longer address of another family only the family is read.
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0 ||
        address.sun_family != AF_UNIX || bytes <= offsetof(sockaddr_un, sun_path)) {
        return false;
    }
    const size_t length =
        std::min<size_t>(bytes - offsetof(sockaddr_un, sun_path), sizeof address.sun_path);
    // An abstract name begins with a zero byte. Other systems give a socket without a name a path
    // of zeroes.
    return std::ranges::any_of(std::string_view(address.sun_path, length),
                               [](char c) { return c != '\0'; });
}

}  // namespace outrigger
