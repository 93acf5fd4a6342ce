// SPDX-License-Identifier: Apache-2.0
/// Reads and writes whose end is looked for at the device (IORING_SETUP_IOPOLL), instead of waiting
/// for its interrupt: beside the worker's own ring, which does all else. The worker does not sleep
/// while such a request is under way.
#pragma once

#include <cstddef>
#include <memory>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/io_engine.h"

namespace outrigger::blk {

/// Rings that were made and restricted before the sandbox closed. Any thread.
class PolledRings {
  public:
    /// `count` of them, one for each queue that is open at a time. An error where the kernel has
    /// none; the portable build always has one.
    [[nodiscard]] static Result<std::unique_ptr<PolledRings>> create(size_t count);

    PolledRings() = default;
    PolledRings(const PolledRings&) = delete;
    PolledRings& operator=(const PolledRings&) = delete;
    /// Every engine is gone, or has retired.
    virtual ~PolledRings() = default;

    /// An engine that reads and writes `fd` (borrowed) so, and has `rest` do what cannot be: stable
    /// writes, what is no transfer, what goes beyond the ring's size, and, after the host has once
    /// answered EOPNOTSUPP, everything. `rest` itself when no ring is left. On `worker`'s thread.
    [[nodiscard]] virtual std::unique_ptr<IoEngine> engine_over(std::unique_ptr<IoEngine> rest,
                                                                int fd,
                                                                Worker& worker) = 0;
};

}  // namespace outrigger::blk
