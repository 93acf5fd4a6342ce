// SPDX-License-Identifier: Apache-2.0
/// The connection to a daemon's control socket: one request, one reply.
#pragma once

#include <chrono>
#include <string>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::ctl {

/// Connects to the socket at `path`. Waits while its queue is full.
[[nodiscard]] Result<UniqueFd> connect_to(const std::string& path, std::chrono::seconds timeout);

/// Sends `request`, with descriptor `fd` (borrowed; -1: none), and waits for the reply.
[[nodiscard]] Result<control::v1::Reply> ask(int socket,
                                             const control::v1::Request& request,
                                             int fd,
                                             std::chrono::seconds timeout);

}  // namespace outrigger::ctl
