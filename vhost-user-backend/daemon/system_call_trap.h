// SPDX-License-Identifier: Apache-2.0
/// Names the system call that a filter refused, for those who look for the cause.
#pragma once

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// From now on a refused call writes its name to stderr and ends the process with exit status 1.
[[nodiscard]] Result<void> install_system_call_trap();

}  // namespace outrigger
