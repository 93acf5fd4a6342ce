// SPDX-License-Identifier: Apache-2.0
/// What one queue of a block device did. Written by the queue's worker, read by any thread.
#pragma once

#include <cstdint>

#include "vhost-user-backend/base/counters.h"

#include "devices/blk/blk_request.h"

namespace outrigger::blk {

struct BlkCounters {
    CounterTable<BlkCommand, kBlkCommandCount> completed;  ///< answered OK
    CounterTable<BlkCommand, kBlkCommandCount> failed;     ///< the image failed: answered IOERR
    CounterTable<BlkRefusal, kBlkRefusalCount> refused;    ///< wrong in themselves, image not asked
    Counter bytes_read;
    Counter bytes_written;
    Counter waits;               ///< a limit of requests or bytes in flight was reached
    Counter throttled;           ///< a limit made the queue, or one of its requests, wait
    Counter throttled_ns;        ///< time in which something did
    Counter stops;               ///< requests that the error policy held
    Counter requests_in_flight;  ///< the most there ever were at a time
    Counter bytes_in_flight;     ///< the most there ever were at a time
};

/// Raises a counter that keeps a maximum.
inline void raise_to(Counter& maximum, uint64_t value) {
    if (const uint64_t before = maximum.value(); value > before) {
        maximum.add(value - before);
    }
}

}  // namespace outrigger::blk
