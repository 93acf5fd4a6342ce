// SPDX-License-Identifier: Apache-2.0
/// How the process confines itself once everything is open: first what threads inherit, then, when
/// all of them run, what each thread enters by itself.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/system_call_rule.h"
#include "vhost-user-backend/io/worker.h"

namespace outrigger {

enum class SandboxMode : uint8_t {
    kStandard,  ///< each layer as far as it can be had here; what it forbids ends the process
    kStrict,    ///< the same, but where a layer cannot be had the program does not start
    kLog,       ///< as kStandard, but a line names the system call that ends it
    kNone,      ///< no sandbox
};

/// On systems other than Linux these functions do nothing.
///
struct DroppedAccess {
    /// See OwnNamespaces.
    std::optional<uid_t> others_look_like{};
};

/// Part of the stage "drop privileges", while the main thread is the only one: takes namespaces of
/// its own, gives up all capabilities but those that `extras` keep and, by Landlock, access to
/// everything that has a name. Files below the directories `removable_below` (descriptors,
/// borrowed) may still be removed, and what `extras` name be used. `isolate` (null: nothing) is
/// called before: see DeviceProgram. What cannot be had here is logged, and an error where `mode`
/// is strict. An error also when a device has started a thread already, which would escape.
[[nodiscard]] Result<DroppedAccess> drop_access(SandboxMode mode,
                                                std::span<const int> removable_below,
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
