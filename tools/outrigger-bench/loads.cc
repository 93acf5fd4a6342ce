// SPDX-License-Identifier: Apache-2.0
// Which loads a plan has.
#include <utility>

#include "tools/outrigger-bench/backend.h"
#include "tools/outrigger-bench/blk_workload.h"
#include "tools/outrigger-bench/console_driver.h"
#include "tools/outrigger-bench/fs_workload.h"
#include "tools/outrigger-bench/load.h"
#include "tools/outrigger-bench/net_driver.h"
#include "tools/outrigger-bench/queue_load.h"
#include "tools/outrigger-bench/rng_workload.h"
#include "tools/outrigger-bench/stream_load.h"
#include "tools/outrigger-bench/vsock_driver.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {
namespace {

using Loads = std::vector<std::unique_ptr<Load>>;

/// One queue of requests.
class RequestLoad final : public Load {
  public:
    RequestLoad(driver::DriverQueue& queue,
                std::unique_ptr<Workload> workload,
                const LoadOptions& options)
        : workload_(std::move(workload)), load_(queue, *workload_, options) {}

    Result<void> run(Phase phase, driver::Deadline end) override { return load_.run(phase, end); }

    LoadCounts take_counts() override { return load_.take_counts(); }

    [[nodiscard]] const std::string& complaint() const override { return workload_->complaint(); }

    [[nodiscard]] uint64_t compared() const override { return workload_->compared(); }

    Result<void> close() override { return workload_->close(); }

  private:
    std::unique_ptr<Workload> workload_;
    QueueLoad load_;
};

LoadOptions load_options(const BenchPlan& plan,
                         const driver::Frontend& frontend,
                         const driver::Agreement& agreement) {
    const bool indirect = agreement.features.has(driver::kIndirectDescBit);
    return {.depth = plan.depth,
            .layout = indirect ? driver::ChainLayout::kIndirect : driver::ChainLayout::kDirect,
            .spin = plan.spin,
            .patience = plan.patience,
            .socket = frontend.socket()};
}

Result<Loads> create_request_loads(const BenchPlan& plan,
                                   driver::Frontend& frontend,
                                   driver::RunningDevice& device,
                                   driver::GuestMemory& memory) {
    Loads loads;
    const LoadOptions options = load_options(plan, frontend, device.agreement);
    std::shared_ptr<FuseSession> session;
    if (plan.workload == WorkloadKind::kFs) {
        session = OUTRIGGER_TRY(FuseSession::create(plan, device, memory));
    }
    const uint16_t first = session ? FsWorkload::kFirstRing : uint16_t{0};
    for (uint16_t queue = 0; queue < plan.queues; ++queue) {
        std::unique_ptr<Workload> workload =
            session ? std::make_unique<FsWorkload>(plan, queue, session)
                    : create_workload(plan, queue);
        OUTRIGGER_TRY(workload->learn(frontend, device.agreement));
        OUTRIGGER_TRY(workload->allocate(memory, plan.depth));
        loads.push_back(std::make_unique<RequestLoad>(
            device.queues[first + queue], std::move(workload), options));
    }
    return loads;
}

Result<Loads> one_stream_load(std::unique_ptr<StreamDriver> guest,
                              const BenchPlan& plan,
                              int socket) {
    Loads loads;
    loads.push_back(OUTRIGGER_TRY(StreamLoad::create(plan, std::move(guest), socket)));
    return loads;
}

}  // namespace

std::unique_ptr<Workload> create_workload(const BenchPlan& plan, uint16_t queue) {
    if (plan.workload == WorkloadKind::kBlk) {
        return std::make_unique<BlkWorkload>(plan, queue);
    }
    if (plan.workload == WorkloadKind::kFs) {
        return std::make_unique<FsWorkload>(plan, queue, nullptr);
    }
    return std::make_unique<RngWorkload>(plan);
}

DeviceNeeds device_needs(const BenchPlan& plan) {
    if (plan.workload == WorkloadKind::kVsock) {
        return {.rings = VsockDriver::kRings, .buffer_bytes = VsockDriver::buffer_bytes(plan)};
    }
    if (plan.workload == WorkloadKind::kConsole) {
        return {.rings = ConsoleDriver::rings(plan),
                .buffer_bytes = ConsoleDriver::buffer_bytes(plan),
                .features = ConsoleDriver::features(plan)};
    }
    if (plan.workload == WorkloadKind::kNet) {
        return {.rings = NetDriver::kRings,
                .buffer_bytes = NetDriver::buffer_bytes(plan),
                .features = NetDriver::features()};
    }
    const uint64_t slots = uint64_t{plan.queues} * plan.depth;
    DeviceNeeds needs{.rings = plan.queues,
                      .buffer_bytes = slots * create_workload(plan, 0)->slot_bytes()};
    if (plan.workload == WorkloadKind::kFs) {
        needs.rings = static_cast<uint16_t>(needs.rings + FsWorkload::kFirstRing);
        needs.buffer_bytes += FuseSession::guest_bytes();
    }
    return needs;
}

Result<Loads> create_loads(const BenchPlan& plan,
                           const Target& target,
                           driver::Frontend& frontend,
                           driver::RunningDevice& device,
                           driver::GuestMemory& memory) {
    if (plan.workload == WorkloadKind::kVsock) {
        return one_stream_load(
            OUTRIGGER_TRY(VsockDriver::create(plan, target, frontend, device, memory)),
            plan,
            frontend.socket());
    }
    if (plan.workload == WorkloadKind::kConsole) {
        return one_stream_load(OUTRIGGER_TRY(ConsoleDriver::create(plan, target, device, memory)),
                               plan,
                               frontend.socket());
    }
    if (plan.workload == WorkloadKind::kNet) {
        const BenchPlan payload = NetDriver::plan_of_payload(plan);
        return one_stream_load(OUTRIGGER_TRY(NetDriver::create(payload, target, device, memory)),
                               payload,
                               frontend.socket());
    }
    return create_request_loads(plan, frontend, device, memory);
}

}  // namespace outrigger::bench
