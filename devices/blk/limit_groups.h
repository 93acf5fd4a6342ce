// SPDX-License-Identifier: Apache-2.0
/// The limits that disks of one process share by a name.
#pragma once

#include <memory>
#include <string>

#include "devices/blk/rate_limit.h"

namespace outrigger::blk {

/// The group of that name, which is made when no disk is in it yet. It lives as long as a disk is
/// in it. Main thread while the program starts, then control thread.
[[nodiscard]] std::shared_ptr<RateLimiter> join_limit_group(const std::string& name);

/// May a group have that name? Letters, digits, '-', '_' and '.', at most 64.
[[nodiscard]] bool is_group_name(const std::string& name);

}  // namespace outrigger::blk
