// SPDX-License-Identifier: Apache-2.0
/// Sockets that a service manager made and passes by name: systemd.socket(5), sd_listen_fds(3).
#pragma once

#include <string>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// The number of the one descriptor that the service manager passes under `name`
/// (FileDescriptorName=); `option` asked for it. An error: there is none, or more than one. Also in
/// the processes that a keeper starts, which inherit the same numbers and the same environment;
/// there the number is only looked at as long as the keeper has not kept what it stands for.
[[nodiscard]] Result<int> find_activated_socket(const std::string& option, const std::string& name);

}  // namespace outrigger
