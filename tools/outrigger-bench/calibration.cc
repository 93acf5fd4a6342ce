// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/calibration.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "tools/driver/driver_queue.h"
#include "tools/outrigger-bench/backend.h"
#include "tools/outrigger-bench/instant_device.h"
#include "tools/outrigger-bench/queue_load.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {

namespace {

/// The best of short slices: some of them are all ours, also on a machine that others use, too.
Result<OwnCost> best_slice(QueueLoad& load, std::chrono::milliseconds duration) {
    constexpr std::chrono::milliseconds kSlice{1};
    OwnCost cost;
    const driver::Deadline end = driver::after(duration);
    while (driver::Clock::now() < end) {
        OUTRIGGER_TRY(load.run(Phase::kLoad, driver::after(kSlice)));
        const LoadCounts counts = load.take_counts();
        cost.rate = std::max(cost.rate, static_cast<double>(counts.completed) / counts.seconds);
    }
    cost.nanoseconds_per_request = 1e9 / cost.rate;
    return cost;
}

}  // namespace

Result<OwnCost> calibrate(const BenchPlan& plan, std::chrono::milliseconds duration) {
    OUTRIGGER_ASSERT(!plan.verify);
    const auto workload = create_workload(plan, 0);
    driver::GuestMemory memory = OUTRIGGER_TRY(create_guest_memory(plan, device_needs(plan)));
    const uint16_t table_segments = plan.indirect ? kSegmentsMax : uint16_t{0};
    // A device of its own thread does not know events of packed rings.
    const bool event_idx = plan.event_idx && !(plan.packed && plan.device_cpu);
    driver::DriverQueue queue = OUTRIGGER_TRY(
        driver::DriverQueue::create(memory,
                                    {.index = 0,
                                     .packed = plan.packed,
                                     .ring = {.size = plan.ring_size,
                                              .event_idx = event_idx,
                                              .indirect_segments_max = table_segments}}));
    workload->assume();
    OUTRIGGER_TRY(workload->allocate(memory, plan.depth));
    InstantDevice device(memory, queue);
    const bool threaded = plan.device_cpu.has_value();
    QueueLoad load(
        queue,
        *workload,
        {.depth = plan.depth,
         .layout = plan.indirect ? driver::ChainLayout::kIndirect : driver::ChainLayout::kDirect,
         .spin = plan.spin || !threaded,
         .patience = plan.patience,
         .socket = -1},
        threaded ? nullptr : &device);
    if (!threaded) {
        return best_slice(load, duration);
    }
    std::atomic<bool> stop{false};
    Result<void> placed;
    std::jthread thread([&] {
        placed = place_thread(*plan.device_cpu);
        device.serve_until(stop, plan.spin);
    });
    auto cost = best_slice(load, duration);
    // Relaxed: nothing but the end depends on it, and joining orders the rest.
    stop.store(true, std::memory_order_relaxed);
    thread.join();
    OUTRIGGER_TRY(placed);
    return cost;
}

}  // namespace outrigger::bench
