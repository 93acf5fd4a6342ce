// SPDX-License-Identifier: Apache-2.0
/// How the process confines itself once everything is open: first what threads inherit, then, when
/// all of them run, what each thread enters by itself.
#pragma once

#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/system_call_rule.h"
#include "vhost-user-backend/io/worker.h"

namespace outrigger {

enum class SandboxMode : uint8_t {
    kOn,    ///< what the sandbox does not allow ends the process at once
    kLog,   ///< the same, after a line that names the system call
    kNone,  ///< no sandbox
};

/// On systems other than Linux these functions do nothing.
///
/// Part of the stage "drop privileges", while the main thread is the only one: gives up all
/// capabilities but those that `extras` keep and, by Landlock, access to everything that has a
/// name. Files below the directories `removable_below` (descriptors, borrowed) may still be
/// removed, and what `extras` name be used. `isolate` (null: nothing) is called before: see
/// DeviceProgram. An error also when a device has started a thread already, which would escape.
[[nodiscard]] Result<void> drop_access(std::span<const int> removable_below,
                                       const SandboxExtras& extras = {},
                                       Result<void> (*isolate)() = nullptr);

/// What the control thread may do besides where guests migrate by postcopy: make userfaultfds and
/// use them (base/userfault.h).
[[nodiscard]] std::span<const SystemCallRule> userfault_system_calls();

/// The stage "sandbox", the last before a front end may connect: the calling thread, which is the
/// control thread, every worker, and every helper thread that they will start, each enter the
/// system call filter of their role. Returns when all have.
[[nodiscard]] Result<void> enter_sandbox(SandboxMode mode,
                                         const SandboxNeeds& needs,
                                         std::span<Worker* const> workers);

}  // namespace outrigger
