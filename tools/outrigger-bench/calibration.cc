// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/calibration.h"

#include <algorithm>

#include "tools/driver/driver_queue.h"
#include "tools/outrigger-bench/backend.h"
#include "tools/outrigger-bench/instant_device.h"
#include "tools/outrigger-bench/queue_load.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {

Result<OwnCost> calibrate(const BenchPlan& plan, std::chrono::milliseconds duration) {
    // Short, so that some of them are all ours on a machine that others use, too.
    constexpr std::chrono::milliseconds kSlice{1};
    OUTRIGGER_ASSERT(!plan.verify);
    const auto workload = create_workload(plan, 0);
    driver::GuestMemory memory = OUTRIGGER_TRY(create_guest_memory(plan, workload->slot_bytes()));
    const uint16_t table_segments = plan.indirect ? kSegmentsMax : uint16_t{0};
    driver::DriverQueue queue = OUTRIGGER_TRY(
        driver::DriverQueue::create(memory,
                                    {.index = 0,
                                     .packed = plan.packed,
                                     .ring = {.size = plan.ring_size,
                                              .event_idx = plan.event_idx,
                                              .indirect_segments_max = table_segments}}));
    workload->assume();
    OUTRIGGER_TRY(workload->allocate(memory, plan.depth));
    InstantDevice device(memory, queue);
    QueueLoad load(
        queue,
        *workload,
        {.depth = plan.depth,
         .layout = plan.indirect ? driver::ChainLayout::kIndirect : driver::ChainLayout::kDirect,
         .spin = true,
         .socket = -1},
        &device);
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

}  // namespace outrigger::bench
