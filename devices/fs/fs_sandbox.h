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

/// What queues and helper threads call besides, where they open files by handle.
[[nodiscard]] std::span<const SystemCallRule> fs_handle_system_calls();

/// An empty root directory, and no network: shares are mounts of their own, which are reached by
/// descriptors alone. As root; other users have Landlock and their own rights.
[[nodiscard]] Result<void> isolate_process();

}  // namespace outrigger::fs
