// SPDX-License-Identifier: Apache-2.0
/// Which system calls each thread may make once nothing is left to be opened. Whatever is not in
/// these tables ends the process.
#pragma once

#include <cstdint>
#include <vector>

#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger {

/// What a thread is for. Helper threads are started by workers, and a thread's filter can only
/// become narrower: what a helper may, its worker may too.
enum class ThreadRole : uint8_t { kControl, kWorker, kHelper };

/// What a role is given only where it is safe, or of use.
struct RoleConditions {
    bool names_are_held = false;  ///< by Landlock: files may be removed, of our socket directories
    bool has_ring = false;        ///< the worker's loop has an io_uring
};

/// The rules of a role: those of every thread, of the role, of the device, and in a build with
/// sanitizers those of their libraries. Valid in the calling process.
[[nodiscard]] std::vector<SystemCallRule> policy_of(ThreadRole role,
                                                    const SandboxNeeds& needs,
                                                    const RoleConditions& conditions);

}  // namespace outrigger
