// SPDX-License-Identifier: Apache-2.0
/// What a device of one type is asked for. The load generator knows rings, time and numbers; a
/// workload knows what a request means. One class for each device type, one object for each queue.
///
/// Bound to one thread at a time. begin() and finish() allocate nothing while all goes well.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/bring_up.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"
#include "tools/driver/ring_types.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/load.h"

namespace outrigger::bench {

enum class Verdict : uint8_t {
    kGood,
    kMore,    ///< good, and the slot's request goes on with another chain: begin() has it
    kFailed,  ///< the device said so; counted
    kWrong,   ///< the device lied: the run is over
};

/// Segments of one request at most.
inline constexpr uint16_t kSegmentsMax = 6;

class Workload {
  public:
    Workload() = default;
    Workload(const Workload&) = delete;
    Workload& operator=(const Workload&) = delete;
    virtual ~Workload() = default;

    /// Reads what the device says of itself, once its queues run. An error: it is not for this
    /// plan.
    [[nodiscard]] virtual Result<void> learn(driver::Frontend& frontend,
                                             const driver::Agreement& agreement) = 0;

    /// In place of learn(): there is no device, and one that suits the plan is assumed.
    virtual void assume() = 0;

    /// Guest memory that each slot takes.
    [[nodiscard]] virtual uint64_t slot_bytes() const = 0;

    /// Gives each of the slots its buffers.
    [[nodiscard]] virtual Result<void> allocate(driver::GuestMemory& memory, uint32_t slots) = 0;

    /// The requests from now on are of that phase. False: there are none.
    [[nodiscard]] virtual Result<bool> enter(Phase phase) = 0;

    /// The chain of the next request, in a slot that is free; empty when the phase has no more, or
    /// none before another came back. Asked again behind each finish().
    [[nodiscard]] virtual std::span<const driver::Segment> begin(uint32_t slot) = 0;

    /// The slot's request came back.
    [[nodiscard]] virtual Verdict finish(uint32_t slot, const driver::Completion& completion) = 0;

    /// What was wrong with the first request that was not good. Empty: all were.
    [[nodiscard]] virtual const std::string& complaint() const = 0;

    /// Answers so far whose content was compared with what it must be.
    [[nodiscard]] virtual uint64_t compared() const { return 0; }

    /// Called once, at the end, however the run ended.
    [[nodiscard]] virtual Result<void> close() { return {}; }
};

/// For queue `queue` of the plan's. The plan is copied.
[[nodiscard]] std::unique_ptr<Workload> create_workload(const BenchPlan& plan, uint16_t queue);

}  // namespace outrigger::bench
