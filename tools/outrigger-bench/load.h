// SPDX-License-Identifier: Apache-2.0
/// What keeps a device busy for a round and counts what came of it. A device of requests has one
/// load for each of its queues; one that carries streams of bytes has one in all.
///
/// Bound to one thread at a time: the one that calls run(). Allocates nothing in run() while all
/// goes well.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/bring_up.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/latency_histogram.h"

namespace outrigger::bench {

/// What the requests of a run are for.
enum class Phase : uint8_t {
    kPrepare,  ///< before all rounds, until there is nothing left to prepare
    kLoad,     ///< a round: there is always one more request
    kCheck,    ///< behind all rounds, until all is checked
};

/// What happened since this was asked last.
struct LoadCounts {
    uint64_t completed = 0;
    uint64_t failed = 0;  ///< of those completed
    uint64_t kicks = 0;
    uint64_t calls = 0;
    double seconds = 0;  ///< from the first request of a run to its last answer, of all runs
    LatencyHistogram latency;

    void merge(const LoadCounts& other);
};

class Load {
  public:
    Load() = default;
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;
    virtual ~Load() = default;

    /// Requests of that phase, until it has no more or, in Phase::kLoad, `end` has passed. All of
    /// them are answered when it returns. Errors: the back end is lost, or answers what is wrong;
    /// then requests are in flight for ever.
    [[nodiscard]] virtual Result<void> run(Phase phase, driver::Deadline end) = 0;

    [[nodiscard]] virtual LoadCounts take_counts() = 0;

    /// What was wrong with the first answer that was not good. Empty: all were.
    [[nodiscard]] virtual const std::string& complaint() const = 0;

    /// Answers so far whose content was compared with what it must be.
    [[nodiscard]] virtual uint64_t compared() const = 0;

    /// Called once, at the end, however the run ended.
    [[nodiscard]] virtual Result<void> close() = 0;
};

/// What a plan's loads need of the device before they are there.
struct DeviceNeeds {
    uint16_t rings = 0;
    uint64_t buffer_bytes = 0;  ///< guest memory beside the rings
    FeatureSet features = driver::kUsualFeatures;
};

[[nodiscard]] DeviceNeeds device_needs(const BenchPlan& plan);

/// The loads of a device that runs: one for each thread. All are borrowed, and outlive them. What
/// a load needs of the device before its first request is asked here.
[[nodiscard]] Result<std::vector<std::unique_ptr<Load>>> create_loads(const BenchPlan& plan,
                                                                      const Target& target,
                                                                      driver::Frontend& frontend,
                                                                      driver::RunningDevice& device,
                                                                      driver::GuestMemory& memory);

}  // namespace outrigger::bench
