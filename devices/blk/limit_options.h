// SPDX-License-Identifier: Apache-2.0
/// What the options of the command line say of limits.
#pragma once

#include <memory>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

#include "devices/blk/rate_limit.h"

namespace outrigger::blk {

/// An error is one of usage.
[[nodiscard]] Result<RateLimits> limits_of(const OptionValues& values);

/// Of a group, where the values name one; limits are then those of whoever gave some first.
[[nodiscard]] Result<std::shared_ptr<RateLimiter>> limiter_of(const OptionValues& values);

}  // namespace outrigger::blk
