// SPDX-License-Identifier: Apache-2.0
/// Which engine makes the calls on the files of an image: what was asked for, and what is there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/result.h"

namespace outrigger {
class Worker;
}  // namespace outrigger

namespace outrigger::blk {

enum class IoEngineKind : uint8_t {
    kAuto,   ///< io_uring where worker and kernel have it, else threads
    kUring,  ///< io_uring, or queues do not start
    kThreads,
};

/// How many blocking calls one image may have under way. Disks reward depth; threads cost memory.
inline constexpr size_t kIoThreads = 16;

/// Is it to be io_uring on this worker? An error when it must be and cannot. Thread-bound:
/// `worker`.
[[nodiscard]] Result<bool> choose_uring(IoEngineKind kind, Worker& worker);

}  // namespace outrigger::blk
