// SPDX-License-Identifier: Apache-2.0
/// What the process gives up between opening things and talking to a guest. Systems
/// other than Linux have other means: there it is the file mode bits only.
#pragma once

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// No program that this process starts, and no thread, gains privileges from here on. Before the
/// first thread exists, because it holds for the calling thread and those that it makes.
[[nodiscard]] Result<void> forbid_new_privileges();

/// Stage "drop privileges": other processes of the same user cannot read our memory, which is the
/// guest's, and what we create is ours alone.
[[nodiscard]] Result<void> drop_privileges();

}  // namespace outrigger
