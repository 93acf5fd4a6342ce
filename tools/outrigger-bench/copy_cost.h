// SPDX-License-Identifier: Apache-2.0
/// What it costs to copy a request's data, and nothing else: the floor under a disk in memory.
#pragma once

#include <chrono>

#include "vhost-user-backend/base/result.h"

#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/calibration.h"

namespace outrigger::bench {

/// Copies blocks of the plan's size, from random places of as much memory as the plan uses of the
/// disk (256 MiB if it does not say), to the buffers of its depth in turn: on the device's
/// processor, which the plan names. The best of some short slices; takes about `duration`.
[[nodiscard]] Result<OwnCost> measure_copy(const BenchPlan& plan,
                                           std::chrono::milliseconds duration);

}  // namespace outrigger::bench
