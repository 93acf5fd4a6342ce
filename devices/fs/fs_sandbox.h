// SPDX-License-Identifier: Apache-2.0
/// How the daemon of a share confines itself.
#pragma once

#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger::fs {

[[nodiscard]] SandboxNeeds fs_sandbox_needs();

/// What serving files takes of root's powers: one bit each.
[[nodiscard]] uint64_t fs_capabilities(bool opens_by_handle);

/// What queues and helper threads call besides: where they open files by handle, and where a keeper
/// is told what is open.
[[nodiscard]] std::span<const SystemCallRule> fs_extra_system_calls(bool opens_by_handle,
                                                                    bool is_kept);

/// Root's supplementary groups would let threads in that act for other users.
[[nodiscard]] Result<void> leave_groups();

}  // namespace outrigger::fs
