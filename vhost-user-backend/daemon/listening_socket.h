// SPDX-License-Identifier: Apache-2.0
/// Where front ends connect: a Unix socket of our own, or one that was inherited.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <sys/socket.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/socket_file.h"

namespace outrigger {

struct ListeningSocket {
    UniqueFd fd;                          ///< non-blocking, close-on-exec
    std::optional<SocketFile> file = {};  ///< none for an inherited socket: its maker removes it
};

/// What listens. The defaults are for front ends: one at a time, and a second one may wait.
struct ListeningKind {
    int type = SOCK_STREAM;  ///< SOCK_DGRAM: it only has the name
    int backlog = 1;         ///< connections that wait to be accepted
};

/// Listens at `path`, for our own user alone. A stale socket (nobody has it open) is replaced. A
/// socket that some process has open, and any other kind of file, stays: that is an error.
[[nodiscard]] Result<ListeningSocket> listen_at(const std::string& path,
                                                const ListeningKind& kind = {});

/// Goes on with a socket that listens at `path` (empty: it was inherited) and that a process of
/// ours before this one made; `file` as SocketFile::open_file() gave it. An error also where that
/// one listened at another path.
[[nodiscard]] Result<ListeningSocket> listen_on(UniqueFd fd,
                                                const std::string& path,
                                                const UniqueFd& file,
                                                int backlog = ListeningKind().backlog);

/// The path at which a Unix socket was made; empty: it has none.
[[nodiscard]] std::string bound_path(int fd);

/// A stream socket that is connected. Thread: any, also inside the sandbox.
[[nodiscard]] bool is_connection(int fd);

/// An inherited socket, examined.
struct InheritedSocket {
    UniqueFd fd;
    bool listening = false;  ///< else connected
};

/// Takes descriptor `number`, which must be a Unix stream socket that listens or is connected.
/// `option` named it.
[[nodiscard]] Result<InheritedSocket> take_inherited_socket(int number,
                                                            std::string_view option = "--fd");

}  // namespace outrigger
