// SPDX-License-Identifier: Apache-2.0
/// The other end of a machine's control socket: `vmm-lite ctl`.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

namespace control::v1 {
class Reply;
class Request;
}  // namespace control::v1

/// Connects to the socket at `path`, asks, and waits for the reply.
[[nodiscard]] Result<control::v1::Reply> ask_machine(const std::string& path,
                                                     const control::v1::Request& request,
                                                     std::chrono::milliseconds timeout);

/// The request of a command's name: status, statistics, pause, resume, quit.
[[nodiscard]] Result<control::v1::Request> request_named(std::string_view command);

/// What `vmm-lite ctl` prints of a reply that is no error; as JSON where that is asked for.
[[nodiscard]] std::string report(const control::v1::Reply& reply, bool json);

/// `vmm-lite ctl [--json] [--timeout=SECONDS] --socket=PATH COMMAND`: `arguments` is what stands
/// behind "ctl". The exit status: 0, 1 when the machine refused or is not there, 2 for usage.
[[nodiscard]] int run_ctl(std::span<const char* const> arguments);

}  // namespace outrigger::vmm
