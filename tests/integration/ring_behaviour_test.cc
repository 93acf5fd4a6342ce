// SPDX-License-Identifier: Apache-2.0
// What rings do over time: memory that comes and goes under load, and sessions that come and go.
#include <array>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/catalogue.h"

namespace outrigger::testing {
namespace {

class RingBehaviour : public Catalogue, public ::testing::WithParamInterface<bool> {
  protected:
    RingBehaviour() : Catalogue(EchoDeviceOptions{}, SessionHostOptions{.worker_count = 2}) {}
};

INSTANTIATE_TEST_SUITE_P(Formats, RingBehaviour, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

/// Keeps `depth` echo requests in a ring, and counts what comes back wrong.
class Load final {
  public:
    Load(driver::DriverQueue& queue, driver::GuestMemory& memory, size_t depth) : queue_(queue) {
        for (size_t i = 0; i < depth; ++i) {
            buffers_.emplace_back(memory);
            idle_.push_back(i);
        }
        send_idle();
    }

    /// Takes what came.
    void collect() {
        while (const auto completion = queue_.poll_used()) {
            const bool right =
                completion->length == EchoBuffers::kBytes && buffers_[completion->token].answered();
            wrong_ += right ? 0U : 1U;
            ++completed_;
            idle_.push_back(completion->token);
        }
    }

    /// Sends what was taken again.
    void send_idle() {
        for (const uint64_t token : std::exchange(idle_, {})) {
            buffers_[token].fill();
            OUTRIGGER_ASSERT(queue_.try_add(buffers_[token].chain(), token));
        }
        queue_.publish_and_kick();
    }

    void turn() {
        collect();
        send_idle();
    }

    /// True once everything that was sent has come back.
    [[nodiscard]] bool drain() {
        return eventually([&] {
            collect();
            return queue_.in_flight() == 0;
        });
    }

    [[nodiscard]] uint64_t completed() const { return completed_; }

    [[nodiscard]] uint64_t wrong() const { return wrong_; }

  private:
    driver::DriverQueue& queue_;
    std::deque<EchoBuffers> buffers_;
    std::vector<uint64_t> idle_;
    uint64_t completed_ = 0;
    uint64_t wrong_ = 0;
};

// Catalogue row 14, again and again while both rings work.
TEST_P(RingBehaviour, RegionsComeAndGoUnderLoad) {
    run({.packed = GetParam(), .queue_count = 2});
    Load first(queue(0), memory_, 16);
    Load second(queue(1), memory_, 16);
    for (uint64_t round = 0; round < 50; ++round) {
        const auto region =
            memory_
                .add_region(
                    {.guest_address = GuestAddr{0x4000'0000 + round * 0x10'0000}, .size = 0x1'0000})
                .value();
        ASSERT_EQ(frontend().add_mem_reg(memory_, region), Answer::kAccepted);
        first.turn();
        second.turn();
        ASSERT_EQ(frontend().rem_mem_reg(memory_, region), Answer::kAccepted);
        // It is gone here too: a back end that still used it would answer with other bytes.
        ASSERT_TRUE(memory_.remove_region(region));
        first.turn();
        second.turn();
    }
    EXPECT_TRUE(first.drain());
    EXPECT_TRUE(second.drain());
    EXPECT_GT(first.completed() + second.completed(), 32U);
    EXPECT_EQ(first.wrong() + second.wrong(), 0U);
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

// What a device keeps of the memory must go when the ring breaks, and not come back.
TEST_P(RingBehaviour, DeviceOfABrokenRingGetsNoMemoryAnyMore) {
    run({.packed = GetParam()});
    expect_echo();
    EXPECT_EQ(device_.memory_regions(QueueIndex{0}), 1U);
    const std::array<driver::Segment, 1> nowhere{
        {{.address = GuestAddr{1ULL << 40}, .length = 16, .device_writable = true}}};
    ASSERT_TRUE(queue().try_add(nowhere, 0));
    queue().publish_and_kick();
    ASSERT_TRUE(queue().wait_error(driver::after(kPatience)));
    EXPECT_EQ(device_.memory_regions(QueueIndex{0}), 0U);

    const auto region =
        memory_.add_region({.guest_address = GuestAddr{0x4000'0000}, .size = 0x1'0000}).value();
    ASSERT_EQ(frontend().add_mem_reg(memory_, region), Answer::kAccepted);
    EXPECT_EQ(device_.memory_regions(QueueIndex{0}), 0U);
    ASSERT_EQ(frontend().rem_mem_reg(memory_, region), Answer::kAccepted);
    EXPECT_EQ(device_.memory_regions(QueueIndex{0}), 0U);
}

TEST_P(RingBehaviour, DeviceThatHasDrainedGetsNoMemory) {
    run({.packed = GetParam()});
    expect_echo();
    device_.break_at_stop(true);
    EXPECT_TRUE(frontend().get_vring_base(0));
    EXPECT_EQ(counters().rings_broken.value(RingError::kDevice), 1U);
    EXPECT_EQ(device_.stray_memory(), 0U);
}

TEST_P(RingBehaviour, RingsStopAndStartUnderLoadWithoutLosingARequest) {
    run({.packed = GetParam(), .queue_count = 2});
    Load load(queue(0), memory_, 16);
    Load other(queue(1), memory_, 16);
    for (int round = 0; round < 50; ++round) {
        const auto base = frontend().get_vring_base(0);
        ASSERT_TRUE(base);
        // Drained: what the device had seen came back before the reply, and it saw no more.
        load.collect();
        ASSERT_EQ(*base, queue(0).start_base());
        ASSERT_EQ(queue(0).start(frontend(), memory_), Answer::kAccepted);
        load.turn();
        other.turn();
    }
    EXPECT_TRUE(load.drain());
    EXPECT_TRUE(other.drain());
    EXPECT_EQ(load.wrong() + other.wrong(), 0U);
}

TEST_P(RingBehaviour, ASessionThatEndsWithRequestsInFlightWaitsForThem) {
    run({.packed = GetParam()});
    device_.hold(true);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    frontend().close();
    give_others_a_moment();
    EXPECT_EQ(device_.resets(), 0U);
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    EXPECT_EQ(device_.resets(), 1U);
    reconnect();
    expect_echo();
}

TEST_P(RingBehaviour, TheBackEndEndsASessionUnderLoad) {
    run({.packed = GetParam(), .queue_count = 2});
    Load load(queue(0), memory_, 16);
    load.turn();
    host_->close_session();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
    EXPECT_TRUE(frontend().wait_closed());
    EXPECT_EQ(device_.queues_running(), 0U);
    reconnect();
    expect_echo();
}

TEST_P(RingBehaviour, EveryLayoutOfAChainIsServedThroughManyWraps) {
    run({.packed = GetParam(), .queue_size = 8});
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(echo_problem(queue(), buffers(), driver::ChainLayout::kDirect), "");
        EXPECT_EQ(echo_problem(queue(), buffers(), driver::ChainLayout::kIndirect), "");
        if (!GetParam()) {
            EXPECT_EQ(echo_problem(queue(), buffers(), driver::ChainLayout::kMixed), "");
        }
    }
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
}

TEST_P(RingBehaviour, WithoutEventIdxTheFlagsAreObeyed) {
    run({.packed = GetParam(), .event_idx = false});
    for (int i = 0; i < 50; ++i) {
        expect_echo();
    }
    // With calls suppressed from here on, none comes.
    queue().suppress_calls();
    // Answered by the ring's worker, after the call that may still be on its way.
    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    const uint64_t calls = counters().calls_sent.value();
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
    EXPECT_EQ(counters().calls_sent.value(), calls);
}

}  // namespace
}  // namespace outrigger::testing
