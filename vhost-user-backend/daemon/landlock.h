// SPDX-License-Identifier: Apache-2.0
/// Landlock: the kernel's access control that a process puts on itself. It binds what a system call
/// filter cannot see: paths, and what io_uring does.
#pragma once

#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger {

/// Forbids the calling thread, and those that it starts, whatever this kernel's Landlock can
/// forbid: every access to the file system by name, TCP, abstract sockets and signals to processes
/// outside. Descriptors that are open stay as they are. Files below the directories
/// `removable_below` (descriptors, borrowed) may still be removed; the TCP ports of `extras` may be
/// connected to, its paths be read, names below its directories be removed or used, and what is
/// below its writable trees be used in every way. Needs no_new_privs.
///
/// Returns whether it holds: where there is no Landlock this logs why and does nothing.
[[nodiscard]] Result<bool> restrict_by_landlock(std::span<const int> removable_below,
                                                const SandboxExtras& extras = {});

}  // namespace outrigger
