// SPDX-License-Identifier: Apache-2.0
/// Creates anonymous memory that can be passed to another process: memfd where the build uses it
/// (on Linux, but for the portable build), an unlinked POSIX shared memory object elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

enum class SharedMemoryKind : uint8_t {
    kDefault,      ///< a memfd where there is one, sealed: it can neither shrink nor grow
    kPosixObject,  ///< shm_open(), unlinked at once; it cannot be sealed
};

/// A close-on-exec descriptor of `length` zeroed bytes, length > 0. `name` is for whoever looks at
/// the process; it has no slash.
[[nodiscard]] Result<UniqueFd> create_shared_memory(
    const char* name, size_t length, SharedMemoryKind kind = SharedMemoryKind::kDefault);

}  // namespace outrigger
