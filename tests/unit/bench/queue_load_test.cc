// SPDX-License-Identifier: Apache-2.0
// The load against the instant device and against none: in one thread, no back end.
#include "tools/outrigger-bench/queue_load.h"

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tools/outrigger-bench/backend.h"
#include "tools/outrigger-bench/calibration.h"
#include "tools/outrigger-bench/copy_cost.h"

namespace outrigger::bench {
namespace {

using std::chrono::milliseconds;

struct Kind {
    bool packed;
    bool event_idx;
    bool indirect;
};

/// A queue, a workload and, when asked for, the device that answers it.
struct LoadedQueue {
    explicit LoadedQueue(const BenchPlan& wanted, bool with_device, int socket = -1)
        : plan(wanted),
          workload(create_workload(plan, 0)),
          memory(create_guest_memory(plan, device_needs(plan)).value()),
          queue(driver::DriverQueue::create(
                    memory,
                    {.packed = plan.packed,
                     .ring = {.size = plan.ring_size,
                              .event_idx = plan.event_idx,
                              .indirect_segments_max = plan.indirect ? kSegmentsMax : uint16_t{0}}})
                    .value()) {
        workload->assume();
        EXPECT_TRUE(workload->allocate(memory, plan.depth));
        if (with_device) {
            device.emplace(memory, queue);
        }
        load.emplace(queue,
                     *workload,
                     LoadOptions{.depth = plan.depth,
                                 .layout = plan.indirect ? driver::ChainLayout::kIndirect
                                                         : driver::ChainLayout::kDirect,
                                 .spin = plan.spin,
                                 .patience = plan.patience,
                                 .socket = socket},
                     device ? &*device : nullptr);
    }

    BenchPlan plan;
    std::unique_ptr<Workload> workload;
    driver::GuestMemory memory;
    driver::DriverQueue queue;
    std::optional<InstantDevice> device;
    std::optional<QueueLoad> load;
};

BenchPlan plan_of(const Kind& kind) {
    BenchPlan plan;
    plan.depth = 5;
    // Not a multiple of what the requests take: packed rings wrap within a request.
    plan.ring_size = kind.packed ? 17 : 16;
    plan.packed = kind.packed;
    plan.event_idx = kind.event_idx;
    plan.indirect = kind.indirect;
    plan.block_bytes = 512;
    plan.patience = milliseconds(100);
    return plan;
}

class QueueLoadKinds : public ::testing::TestWithParam<Kind> {};

TEST_P(QueueLoadKinds, EveryRequestIsAnsweredAndGood) {
    LoadedQueue loaded(plan_of(GetParam()), true);

    ASSERT_TRUE(loaded.load->run(Phase::kLoad, driver::after(milliseconds(20))));
    const LoadCounts counts = loaded.load->take_counts();

    EXPECT_GT(counts.completed, 5U);
    EXPECT_EQ(counts.failed, 0U) << loaded.workload->complaint();
    EXPECT_EQ(counts.latency.count(), counts.completed);
    EXPECT_EQ(counts.kicks, 0U);
    EXPECT_EQ(counts.calls, 0U);
    EXPECT_GT(counts.seconds, 0.0);
    EXPECT_EQ(loaded.queue.in_flight(), 0U);
}

TEST_P(QueueLoadKinds, CountsBeginAnewForTheNextRun) {
    LoadedQueue loaded(plan_of(GetParam()), true);
    ASSERT_TRUE(loaded.load->run(Phase::kLoad, driver::after(milliseconds(5))));
    (void)loaded.load->take_counts();

    // The time is over at once: each slot is used once.
    ASSERT_TRUE(loaded.load->run(Phase::kLoad, driver::after(milliseconds(0))));

    EXPECT_EQ(loaded.load->take_counts().completed, 5U);
}

INSTANTIATE_TEST_SUITE_P(Rings,
                         QueueLoadKinds,
                         ::testing::Values(Kind{false, false, false},
                                           Kind{false, true, false},
                                           Kind{false, true, true},
                                           Kind{true, false, false},
                                           Kind{true, true, false},
                                           Kind{true, true, true}));

class LostBackend : public ::testing::TestWithParam<bool> {
  protected:
    static BenchPlan plan() {
        BenchPlan plan = plan_of({});
        plan.spin = GetParam();
        return plan;
    }
};

TEST_P(LostBackend, SilenceEndsTheRun) {
    LoadedQueue loaded(plan(), false);

    const auto outcome = loaded.load->run(Phase::kLoad, driver::after(milliseconds(1)));

    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, "no answer within 100 ms, with 5 requests in flight");
}

TEST_P(LostBackend, HangUpEndsTheRun) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    const UniqueFd ours(ends[0]);
    ::close(ends[1]);
    LoadedQueue loaded(plan(), false, ours.get());

    const auto outcome = loaded.load->run(Phase::kLoad, driver::after(milliseconds(1)));

    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, "the back end hung up with 5 requests in flight");
}

TEST_P(LostBackend, BrokenRingEndsTheRun) {
    LoadedQueue loaded(plan(), false);
    const uint64_t signal = 1;
    ASSERT_EQ(::write(loaded.queue.error_fd(), &signal, sizeof signal), ssize_t{sizeof signal});

    const auto outcome = loaded.load->run(Phase::kLoad, driver::after(milliseconds(1)));

    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, "the back end says that the ring is in error");
}

TEST_P(LostBackend, UsedRingThatLiesEndsTheRun) {
    LoadedQueue loaded(plan(), false);
    const auto areas = loaded.queue.split()->addresses();
    // Before anything is available: the used index runs ahead.
    const std::array<std::byte, 2> index = {std::byte{200}, std::byte{0}};
    loaded.memory.write(driver::offset_by(areas.device_area, 2), index);

    const auto outcome = loaded.load->run(Phase::kLoad, driver::after(milliseconds(1)));

    ASSERT_FALSE(outcome);
    EXPECT_TRUE(outcome.error().message.starts_with("the used ring is wrong"))
        << outcome.error().message;
}

TEST(QueueLoad, CallsAreOffWhenTheSleepWasNotNeeded) {
    BenchPlan plan = plan_of({});
    plan.spin = false;
    LoadedQueue loaded(plan, false);
    const auto areas = loaded.queue.split()->addresses();
    // An index that lies: polling gives nothing, and yet there is no sleep.
    const std::array<std::byte, 2> index = {std::byte{200}, std::byte{0}};
    loaded.memory.write(driver::offset_by(areas.device_area, 2), index);
    ASSERT_FALSE(loaded.load->run(Phase::kLoad, driver::after(milliseconds(1))));

    // 2.7.6: NO_INTERRUPT is the lowest bit of the flags.
    EXPECT_EQ(*loaded.memory.data(areas.driver_area, 1), std::byte{1});
}

INSTANTIATE_TEST_SUITE_P(Completion, LostBackend, ::testing::Bool());

/// Says of every second request that it failed.
class MoodyWorkload final : public Workload {
  public:
    explicit MoodyWorkload(Verdict bad) : bad_(bad) {}

    Result<void> learn(driver::Frontend&, const driver::Agreement&) override { return {}; }

    void assume() override {}

    [[nodiscard]] uint64_t slot_bytes() const override { return 64; }

    Result<void> allocate(driver::GuestMemory& memory, uint32_t) override {
        buffer_ = {.address = OUTRIGGER_TRY(memory.allocate(64, 64)),
                   .length = 64,
                   .device_writable = true};
        return {};
    }

    Result<bool> enter(Phase phase) override {
        left_ = 10;
        return phase != Phase::kCheck;
    }

    std::span<const driver::Segment> begin(uint32_t) override {
        if (!std::exchange(goes_on_, false)) {
            if (left_ == 0) {
                return {};
            }
            --left_;
        }
        return std::span(&buffer_, 1);
    }

    Verdict finish(uint32_t, const driver::Completion&) override {
        const Verdict verdict = ++finished_ % 2 == 0 ? bad_ : Verdict::kGood;
        goes_on_ = verdict == Verdict::kMore;
        return verdict;
    }

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

  private:
    Verdict bad_;
    driver::Segment buffer_;
    uint32_t left_ = 0;
    uint32_t finished_ = 0;
    bool goes_on_ = false;
    std::string complaint_ = "a lie";
};

class MoodyLoad : public ::testing::Test {
  protected:
    explicit MoodyLoad(Verdict bad) : workload_(bad) {
        EXPECT_TRUE(workload_.allocate(memory_, 2));
        device_.emplace(memory_, queue_);
        load_.emplace(queue_, workload_, LoadOptions{.depth = 2}, &*device_);
    }

    MoodyWorkload workload_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(1 << 20).value();
    driver::DriverQueue queue_ =
        driver::DriverQueue::create(memory_, {.ring = {.size = 16}}).value();
    std::optional<InstantDevice> device_;
    std::optional<QueueLoad> load_;
};

/// The device uses each request before it is published, in the one thread that there is.
class HastyDevice final : public Workload {
  public:
    HastyDevice(driver::GuestMemory& memory, driver::DriverQueue& queue)
        : memory_(memory), queue_(queue) {}

    Result<void> learn(driver::Frontend&, const driver::Agreement&) override { return {}; }

    void assume() override {}

    [[nodiscard]] uint64_t slot_bytes() const override { return 64; }

    Result<void> allocate(driver::GuestMemory& memory, uint32_t) override {
        buffer_ = {.address = OUTRIGGER_TRY(memory.allocate(64, 64)),
                   .length = 64,
                   .device_writable = true};
        return {};
    }

    Result<bool> enter(Phase) override { return true; }

    std::span<const driver::Segment> begin(uint32_t) override {
        // All chains have head 0 and length 0: only the index counts.
        const bool hasty = driver::Clock::now() < give_up_;
        used_ = static_cast<uint16_t>(used_ + (hasty ? 1 : 0));
        const std::array<std::byte, 2> index = {static_cast<std::byte>(used_ & 0xff),
                                                static_cast<std::byte>(used_ >> 8)};
        memory_.write(driver::offset_by(queue_.split()->addresses().device_area, 2), index);
        gave_up_ = !hasty;
        return std::span(&buffer_, 1);
    }

    Verdict finish(uint32_t, const driver::Completion&) override { return Verdict::kGood; }

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

    [[nodiscard]] bool gave_up() const { return gave_up_; }

  private:
    driver::GuestMemory& memory_;
    driver::DriverQueue& queue_;
    const driver::Deadline give_up_ = driver::after(milliseconds(3000));
    driver::Segment buffer_;
    uint16_t used_ = 0;
    bool gave_up_ = false;
    std::string complaint_;
};

TEST(QueueLoad, DeviceThatRunsAheadDoesNotKeepItFromTheClock) {
    driver::GuestMemory memory = driver::GuestMemory::create(1 << 20).value();
    driver::DriverQueue queue = driver::DriverQueue::create(memory, {.ring = {.size = 16}}).value();
    HastyDevice hasty(memory, queue);
    ASSERT_TRUE(hasty.allocate(memory, 1));
    QueueLoad load(queue, hasty, {.depth = 1, .patience = milliseconds(100)});

    EXPECT_TRUE(load.run(Phase::kLoad, driver::after(milliseconds(5))));
    EXPECT_FALSE(hasty.gave_up());
}

/// Every second chain is followed by another of the same request.
class LongRequests : public MoodyLoad {
  protected:
    LongRequests() : MoodyLoad(Verdict::kMore) {}
};

class FailedRequests : public MoodyLoad {
  protected:
    FailedRequests() : MoodyLoad(Verdict::kFailed) {}
};

class WrongRequests : public MoodyLoad {
  protected:
    WrongRequests() : MoodyLoad(Verdict::kWrong) {}
};

TEST_F(LongRequests, CountOnce) {
    ASSERT_TRUE(load_->run(Phase::kPrepare, {}));
    const LoadCounts counts = load_->take_counts();

    EXPECT_EQ(counts.completed, 10U);
    EXPECT_EQ(counts.latency.count(), 10U);
    EXPECT_EQ(counts.failed, 0U);
}

TEST_F(FailedRequests, AreCounted) {
    // A phase ends by itself when the workload has no more requests.
    ASSERT_TRUE(load_->run(Phase::kPrepare, {}));
    const LoadCounts counts = load_->take_counts();

    EXPECT_EQ(counts.completed, 10U);
    EXPECT_EQ(counts.failed, 5U);
}

TEST_F(FailedRequests, PhaseThatTheWorkloadLacksDoesNothing) {
    ASSERT_TRUE(load_->run(Phase::kCheck, {}));

    EXPECT_EQ(load_->take_counts().completed, 0U);
}

TEST_F(WrongRequests, EndTheRunOnceNothingIsInFlight) {
    const auto outcome = load_->run(Phase::kPrepare, {});

    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, "a lie");
}

TEST(Calibration, MeasuresItself) {
    BenchPlan plan;
    plan.ring_size = 256;

    const auto own = calibrate(plan, milliseconds(20));

    ASSERT_TRUE(own);
    EXPECT_GT(own->rate, 0.0);
    EXPECT_DOUBLE_EQ(own->nanoseconds_per_request, 1e9 / own->rate);
}

/// Ring format, EVENT_IDX, spin.
using Floor = std::array<bool, 3>;

class FloorKinds : public ::testing::TestWithParam<Floor> {};

TEST_P(FloorKinds, DeviceInItsOwnThreadAnswersEveryRequest) {
    BenchPlan plan;
    plan.ring_size = 256;
    plan.packed = GetParam()[0];
    plan.event_idx = GetParam()[1];
    plan.spin = GetParam()[2];
    // Wherever this thread runs, too: both must make way for one another.
    plan.device_cpu = ::sched_getcpu();

    // A lost kick or call would end it with "no answer".
    const auto floor = calibrate(plan, milliseconds(200));

    ASSERT_TRUE(floor) << floor.error().message;
    EXPECT_GT(floor->rate, 0.0);
}

INSTANTIATE_TEST_SUITE_P(Rings,
                         FloorKinds,
                         ::testing::Values(Floor{false, false, false},
                                           Floor{false, false, true},
                                           Floor{false, true, false},
                                           Floor{false, true, true},
                                           Floor{true, false, false},
                                           Floor{true, false, true},
                                           Floor{true, true, false}));

TEST(Calibration, ProcessorThatDoesNotExistIsTold) {
    BenchPlan plan;
    plan.ring_size = 256;
    plan.device_cpu = CPU_SETSIZE - 1;

    EXPECT_FALSE(calibrate(plan, milliseconds(20)));
    EXPECT_FALSE(measure_copy(plan, milliseconds(20)));
}

TEST(Calibration, CopiesAsMuchAsThePlanUses) {
    BenchPlan plan;
    plan.area_bytes = 1 << 20;
    plan.device_cpu = ::sched_getcpu();

    const auto copy = measure_copy(plan, milliseconds(20));

    ASSERT_TRUE(copy) << copy.error().message;
    EXPECT_GT(copy->rate, 0.0);
    EXPECT_DOUBLE_EQ(copy->nanoseconds_per_request, 1e9 / copy->rate);
}

TEST(Calibration, CopiesNoMoreThanTheMachineHasToSpare) {
    BenchPlan plan;
    plan.area_bytes = UINT64_MAX / 2;
    plan.device_cpu = ::sched_getcpu();

    const auto copy = measure_copy(plan, milliseconds(20));

    ASSERT_FALSE(copy);
    EXPECT_TRUE(copy.error().message.ends_with("more than a quarter of what there is"))
        << copy.error().message;
}

TEST(Calibration, CopiesAtLeastOneBlock) {
    BenchPlan plan;
    plan.area_bytes = 512;
    plan.device_cpu = ::sched_getcpu();

    EXPECT_TRUE(measure_copy(plan, milliseconds(5)));
}

}  // namespace
}  // namespace outrigger::bench
