// SPDX-License-Identifier: Apache-2.0
/// What a service manager says in our environment, and the socket at which it listens:
/// sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
#pragma once

#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::service_manager {

/// $LISTEN_FDS begin there.
inline constexpr int kFirstListenFd = 3;

/// Set and not empty.
[[nodiscard]] std::optional<std::string> text_of(const char* variable);

/// Decimal, not negative.
[[nodiscard]] std::optional<int> number_of(const char* variable);

/// Is the process whose id is in `variable` (LISTEN_PID, WATCHDOG_PID) this one, or our parent and
/// keeper, if we have such?
[[nodiscard]] bool is_for_us(const char* variable, bool parent_is_keeper);

/// A socket that is connected to $NOTIFY_SOCKET; an error when there is none.
[[nodiscard]] Result<UniqueFd> connect();

}  // namespace outrigger::service_manager
