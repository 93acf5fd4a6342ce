// SPDX-License-Identifier: Apache-2.0
/// What the sandbox's tests try of the network.
#pragma once

#include <cerrno>
#include <cstdint>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// errno of a connection to a port of this machine.
inline int try_to_connect(uint16_t port) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    // SAFETY: sockets' addresses are passed so.
    const auto* const raw = reinterpret_cast<const sockaddr*>(&address);
    return ::connect(fd.get(), raw, sizeof address) == 0 ? 0 : errno;
}

}  // namespace outrigger
