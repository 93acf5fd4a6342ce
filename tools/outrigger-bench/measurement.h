// SPDX-License-Identifier: Apache-2.0
/// The run: two back ends, or one, in turn for many rounds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/calibration.h"
#include "tools/outrigger-bench/queue_load.h"
#include "tools/outrigger-bench/system_calls.h"

namespace outrigger::bench {

/// What was measured of one back end, over all rounds.
struct SideReport {
    std::string socket;
    std::optional<pid_t> pid;
    bool packed = false;
    bool event_idx = false;
    bool indirect = false;
    std::vector<double> rates{};  ///< requests a second, by round
    LoadCounts counts{};
    double cpu_seconds = 0;  ///< while its rounds ran; only with a pid
    std::optional<CallCount> system_calls{};
    uint64_t system_calls_requests = 0;  ///< answered while they were counted
    uint64_t compared = 0;               ///< answers whose content was checked
};

struct RunReport {
    std::optional<OwnCost> own;  ///< not with --verify, and not of streams
    SideReport a{};
    std::optional<SideReport> b{};
    /// Part of the machine's processors that neither this program nor the back ends used while the
    /// rounds ran, 0 to 1. Nullopt: nobody says, or the process of a back end is not known.
    std::optional<double> others_load{};
    std::string complaint{};  ///< the first answer that was not good; empty: all were
};

/// Runs the plan. Errors: a back end that cannot be used, is lost, or holds what is wrong.
[[nodiscard]] Result<RunReport> measure(const BenchPlan& plan);

}  // namespace outrigger::bench
