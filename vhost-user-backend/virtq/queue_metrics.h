// SPDX-License-Identifier: Apache-2.0
/// What a queue has done, and how long that took: written by the worker that has the queue, read by
/// any thread, and on cache lines of their own, so that no worker waits for another's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/latency_histogram.h"

namespace outrigger {

/// Counted by Virtqueue.
struct VirtqueueCounters {
    Counter chains_popped;
    Counter chains_completed;
    Counter bytes_completed;  ///< their buffers, of both directions
    Counter chains_set_aside;
    Counter completions_held;  ///< IN_ORDER: chains that had to wait for an earlier one
    Counter batches_published;
    Counter calls_wanted;  ///< how often publish() asked for a call
};

/// The line that processors fetch, and its neighbour, which they fetch along with it.
inline constexpr size_t kCacheLinesApart = 128;

/// Of one queue, over all the rings that it was.
struct alignas(kCacheLinesApart) QueueMetrics {
    VirtqueueCounters ring;
    Counter kicks_received;
    Counter calls_sent;
    Counter calls_lost;  ///< nobody is there any more to read them
    /// From when a worker took a request from the ring until its answer was visible there. Both
    /// times are those of batches: the first is when the worker last looked at the clock, which is
    /// at most a turn of its loop before.
    LatencyHistogram latency;

    /// Neither answered nor left for the next process. What goes up later is read first, so that no
    /// difference is negative.
    [[nodiscard]] uint64_t requests_in_flight() const {
        const uint64_t done = ring.chains_completed.value() + ring.chains_set_aside.value();
        const uint64_t taken = ring.chains_popped.value();
        return taken - std::min(taken, done);
    }
};

}  // namespace outrigger
