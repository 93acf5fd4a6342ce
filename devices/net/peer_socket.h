// SPDX-License-Identifier: Apache-2.0
/// Unix sockets to the program at the other end of a port.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/listening_socket.h"

namespace outrigger::net {

struct PeerOptions {
    std::string peer_path{};  ///< where to connect; empty: whoever comes to `listener`
    /// Where peers connect (streams), or our own name (datagrams).
    std::optional<ListeningSocket> listener{};
    std::chrono::milliseconds retry{1000};  ///< between two attempts to connect
    bool vfkit = false;  ///< datagrams: say "VFKT" first, as gvproxy wants to hear it
};

/// Of one frame behind its length, which is what QEMU takes at most.
inline constexpr size_t kStreamFrameBytesMax = 4096 + 65536;

/// Does a path fit the address of a Unix socket?
[[nodiscard]] Result<void> check_peer_path(const std::string& path);

/// A socket of that type that is connected to whoever has the path; invalid with errno.
[[nodiscard]] UniqueFd connect_to_peer(const std::string& path, int type);

/// Connects a datagram socket: datagrams of others are refused from then on.
[[nodiscard]] bool connect_datagrams(int socket, const std::string& path);

/// Makes it take datagrams of anybody again.
void disconnect_datagrams(int socket);

/// A datagram socket that the peer can answer to, without a file. Invalid with errno.
[[nodiscard]] UniqueFd open_nameless_datagrams();

/// Buffers for a few of the largest frames, as far as the system allows.
void enlarge_buffers(int socket, int bytes);

}  // namespace outrigger::net
