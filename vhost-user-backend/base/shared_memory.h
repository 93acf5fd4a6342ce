// SPDX-License-Identifier: Apache-2.0
/// Creates anonymous memory that can be passed to another process: memfd where the system has it,
/// an unlinked POSIX shared memory object elsewhere.
#pragma once

#include <cstddef>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// A close-on-exec descriptor of `length` zeroed bytes, length > 0. Where seals exist it can
/// neither shrink nor grow. `name` is for /proc only.
[[nodiscard]] Result<UniqueFd> create_shared_memory(const char* name, size_t length);

/// Can nobody make this file shorter, as long as it exists? Only memory files know such a promise,
/// and only where the system has seals.
[[nodiscard]] bool is_sealed_against_shrinking(int fd);

}  // namespace outrigger
