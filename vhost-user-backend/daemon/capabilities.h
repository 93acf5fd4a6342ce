// SPDX-License-Identifier: Apache-2.0
/// The powers of root in pieces, which a daemon needs none of once everything is open.
#pragma once

#include <cstdint>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Gives up every capability of the calling thread and of those that it starts: permitted,
/// effective, inheritable and ambient, and as far as the process may, the bounding set. Root
/// remains a user id and owner of files. Those in `kept` (one bit each) stay permitted and
/// effective, as far as the thread has them.
[[nodiscard]] Result<void> drop_capabilities(uint64_t kept = 0);

}  // namespace outrigger
