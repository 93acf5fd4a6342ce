// SPDX-License-Identifier: Apache-2.0
/// What the load generator itself costs: the requests of a plan, against a device that answers at
/// once in the same thread. No back end can be measured faster than that. Or, with the device in a
/// thread of its own, what any back end could do at most.
#pragma once

#include "vhost-user-backend/base/result.h"

#include "tools/outrigger-bench/bench_options.h"

namespace outrigger::bench {

struct OwnCost {
    double rate = 0;  ///< requests a second of one queue
    double nanoseconds_per_request = 0;
};

/// The best of some short slices. The load is made in the calling thread, the device has its own
/// where the plan names a processor for it. Takes about `duration`. The plan does not
/// verify: there is no disk.
[[nodiscard]] Result<OwnCost> calibrate(const BenchPlan& plan, std::chrono::milliseconds duration);

}  // namespace outrigger::bench
