// SPDX-License-Identifier: Apache-2.0
/// What the process gives up between opening things and talking to a guest. The portable build,
/// whose systems have other means, gives up its file mode bits only.
#pragma once

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// No program that this process starts, and no thread, gains privileges from here on. Before the
/// first thread exists, because it holds for the calling thread and those that it makes.
[[nodiscard]] Result<void> forbid_new_privileges();

/// Stage "drop privileges": other processes of the same user cannot read our memory, which is the
/// guest's, and what we create is ours alone.
[[nodiscard]] Result<void> drop_privileges();

/// Stage "sandbox", the last before a front end may connect: everything is open, every thread and
/// io_uring exists. It is the place for Landlock and seccomp, which take away the system calls
/// that open, connect and execute; neither is in use yet.
[[nodiscard]] Result<void> enter_sandbox();

}  // namespace outrigger
