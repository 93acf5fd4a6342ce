// SPDX-License-Identifier: Apache-2.0
// SET_VRING_* and GET_VRING_BASE, seen from the front end.
#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

using driver::DriverQueue;

class RingMessages : public SessionTest {
  protected:
    // Features and memory are known, and a ring that nobody was told of.
    void prepare(const driver::BringUpOptions& options = {}) {
        negotiate(options);
        ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
        queues().push_back(driver::create_queue(memory_, running_.agreement, options, 0).value());
    }

    void start_and_enable() {
        ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }
};

TEST_F(RingMessages, SetVringNumTakesTheDevicesLargestSize) {
    negotiate();
    EXPECT_EQ(frontend().set_vring_num(0, 1024), Answer::kAccepted);
    expect_refusal(Refusal::kRingSize, [&] { return frontend().set_vring_num(0, 2048); });
}

TEST_F(RingMessages, SetVringNumTakesAnySizeForPackedRings) {
    prepare({.packed = true, .queue_size = 3});
    start_and_enable();
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(echo_problem(queue(), buffers(), driver::ChainLayout::kIndirect), "");
    }
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
}

TEST_F(RingMessages, GetVringBaseOfTheLastRingTellsTheDevice) {
    run({.queue_count = 2});
    const uint32_t before = device_.suspensions();
    EXPECT_TRUE(frontend().get_vring_base(1));
    EXPECT_EQ(device_.suspensions(), before) << "ring 0 still runs";
    EXPECT_TRUE(frontend().get_vring_base(0));
    EXPECT_EQ(device_.suspensions(), before + 1) << "and before the answer";
}

// What it took to start (a lock on its image, say) is free again.
TEST_F(RingMessages, StartThatFailsTellsTheDeviceThatNothingRuns) {
    prepare();
    const uint32_t before = device_.suspensions();
    device_.refuse_start(true);
    expect_refusal(Refusal::kDevice, [&] { return queue().start(frontend(), memory_); });
    EXPECT_EQ(device_.suspensions(), before + 1) << "and before the answer";
    device_.refuse_start(false);
    start_and_enable();
    expect_echo();
}

TEST_F(RingMessages, StartThatFailsBesideARingThatRunsDoesNot) {
    run({.queue_count = 2});
    ASSERT_TRUE(queue(1).stop(frontend()));
    const uint32_t before = device_.suspensions();
    device_.refuse_start(true);
    expect_refusal(Refusal::kDevice, [&] { return queue(1).start(frontend(), memory_); });
    EXPECT_EQ(device_.suspensions(), before);
}

TEST_F(RingMessages, SetVringAddrRefusesWhatLiesOutsideMemory) {
    prepare();
    auto address = queue().vring_address(memory_);
    address.used += kMemoryBytes;
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(address); });
    start_and_enable();
    expect_echo();
}

TEST_F(RingMessages, SetVringAddrRefusesARingWhoseEndLiesOutsideMemory) {
    prepare();
    EXPECT_EQ(frontend().set_vring_num(0, 256), Answer::kAccepted);
    auto address = queue().vring_address(memory_);
    const auto region = memory_.description(memory_.regions()[0]);
    // One descriptor short of what 256 of them need.
    address.descriptor = region.user_address + region.size - 255 * 16;
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(address); });
    address.descriptor = region.user_address + region.size - 256 * 16;
    EXPECT_EQ(frontend().set_vring_addr(address), Answer::kAccepted);
}

TEST_F(RingMessages, SetVringAddrAcceptsTheSamePlaceOnARunningRing) {
    run();
    auto address = queue().vring_address(memory_);
    address.flags = wire::kVringAddressFlagLog;
    EXPECT_EQ(frontend().set_vring_addr(address), Answer::kAccepted);
    expect_echo();
}

TEST_F(RingMessages, SetVringBaseSaysWhereTheRingGoesOn) {
    prepare();
    queue().split()->start_at(0xfffe);
    start_and_enable();
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(echo_problem(queue(), buffers()), "");
    }
    EXPECT_EQ(frontend().get_vring_base(0).value(), 2U);
}

TEST_F(RingMessages, GetVringBaseStopsTheRing) {
    run();
    expect_echo();
    EXPECT_EQ(frontend().get_vring_base(0).value(), 1U);
    EXPECT_EQ(device_.queues_running(), 0U);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish();
    queue().kick();
    give_others_a_moment();
    EXPECT_FALSE(queue().poll_used());
}

TEST_F(RingMessages, GetVringBaseOfAStoppedRingGivesItsBase) {
    negotiate();
    EXPECT_EQ(frontend().set_vring_num(1, 64), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_base(1, 17), Answer::kAccepted);
    EXPECT_EQ(frontend().get_vring_base(1).value(), 17U);
}

TEST_F(RingMessages, GetVringBaseWaitsForRequestsInFlight) {
    run();
    device_.hold(true);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    const wire::VringState state{.index = 0, .num = 0};
    EXPECT_EQ(frontend().send({.request = number(FrontendRequest::kGetVringBase),
                               .flags = wire::kVersion,
                               .size = sizeof state},
                              bytes_of(state)),
              Answer::kUnasked);
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    device_.release_held(QueueIndex{0});
    const auto reply = frontend().receive().value();
    EXPECT_EQ(reply.header.request, number(FrontendRequest::kGetVringBase));
    // The request was answered before the reply: the ring's memory is quiet now.
    EXPECT_TRUE(queue().poll_used());
}

// vhost-user "Ring states": the other rings go on.
TEST_F(RingMessages, GetVringBaseOfOneRingLeavesTheOthersRunning) {
    run({.queue_count = 2});
    EXPECT_EQ(frontend().get_vring_base(0).value(), 0U);
    expect_echo(1);
}

TEST_F(RingMessages, GetVringBaseOfAnUnknownRingClosesBecauseItsReplyDoesNotExist) {
    negotiate();
    EXPECT_EQ(frontend().get_vring_base(2).error(), Answer::kClosed);
    expect_close_and_next_session(CloseReason::kRefused);
}

TEST_F(RingMessages, ARingThatWasStoppedStartsAgainWhereItStood) {
    for (const bool packed : {false, true}) {
        SCOPED_TRACE(packed ? "packed" : "split");
        run({.packed = packed, .queue_size = 4});
        for (int i = 0; i < 3; ++i) {
            expect_echo();
        }
        EXPECT_EQ(queue().stop(frontend()).value(), queue().base());
        start_and_enable();
        expect_echo();
        frontend().close();
        EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
        reconnect();
    }
}

TEST_F(RingMessages, SetVringKickStartsTheRingAndLooksAtItWithoutAKick) {
    prepare();
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 9));
    queue().publish();
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(queue().poll_used().value().token, 9U);
    EXPECT_EQ(counters().kicks_received.value(), 0U);
}

TEST_F(RingMessages, SetVringEnableLooksAtTheRingWithoutAKick) {
    prepare();
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 9));
    queue().publish();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    give_others_a_moment();
    EXPECT_FALSE(queue().poll_used());
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(counters().kicks_received.value(), 0U);
}

TEST_F(RingMessages, SetVringEnableZeroHoldsTheRequestsBack) {
    run();
    expect_echo();
    EXPECT_EQ(frontend().set_vring_enable(0, 0), Answer::kAccepted);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish();
    queue().kick();
    give_others_a_moment();
    EXPECT_FALSE(queue().poll_used());
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
}

TEST_F(RingMessages, SetVringEnableTakesZeroAndOneOnly) {
    negotiate();
    expect_refusal(Refusal::kRingEnable, [&] { return frontend().set_vring_enable(0, 2); });
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_enable(2, 1); });
}

// Whatever the order, a ring that has all it needs runs once it is enabled.
TEST_F(RingMessages, ARingWhoseKickCameFirstOfAllRuns) {
    prepare();
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_base(0, 0), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    expect_echo();
}

// Without bit 30 no ENABLE will come: the last of size, base and addresses starts the ring.
TEST_F(RingMessages, ARingWhoseKickCameFirstNeedsNoEnableToRun) {
    const driver::BringUpOptions options{
        .features = driver::kUsualFeatures.without(wire::kProtocolFeaturesBit)};
    negotiate(options);
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    queues().push_back(driver::create_queue(memory_, running_.agreement, options, 0).value());
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
    // Not before its base is known, which could not be set any more.
    EXPECT_EQ(counters().rings_started.value(), 0U);
    EXPECT_EQ(frontend().set_vring_base(0, 0), Answer::kAccepted);
    expect_echo();
}

TEST_F(RingMessages, SetVringKickWithoutADescriptorStartsTheRingToo) {
    prepare();
    EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 3));
    queue().publish();
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_kick(0, -1), Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
}

// vhost-user SET_VRING_KICK: without a descriptor "polling should be used".
TEST_F(RingMessages, ARingWithoutAKickDescriptorIsPolled) {
    run();
    EXPECT_EQ(frontend().set_vring_kick(0, -1), Answer::kAccepted);
    for (int i = 0; i < 3; ++i) {
        give_others_a_moment();
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 3));
        queue().publish();
        ASSERT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
        EXPECT_TRUE(buffers().answered());
    }
    EXPECT_EQ(counters().kicks_received.value(), 0U);
    // With a descriptor, and stopped, it is not polled any more: the worker has no timer left.
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    expect_echo();
    EXPECT_EQ(frontend().set_vring_kick(0, -1), Answer::kAccepted);
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
}

// VIRTIO 1.3, 2.8.1: both wrap counters of a packed ring begin at 1.
TEST_F(RingMessages, ARingWithoutABaseIsNew) {
    for (const bool packed : {false, true}) {
        SCOPED_TRACE(packed ? "packed" : "split");
        prepare({.packed = packed});
        EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
        expect_echo();
        frontend().close();
        ASSERT_TRUE(host_->wait_closed());
        reconnect();
    }
}

TEST_F(RingMessages, SetVringKickOnARunningRingSwapsTheDescriptor) {
    run();
    const auto other = Notifier::create(Notifier::Kind::kPipe).value();
    EXPECT_EQ(frontend().set_vring_kick(0, other.read_fd()), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish();
    other.signal();
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_GE(counters().kicks_received.value(), 1U);
}

// QEMU swaps the descriptor while requests complete: a call that went to the old one is lost.
TEST_F(RingMessages, SetVringCallOnARunningRingSignalsTheNewDescriptorOnce) {
    run();
    const auto other = Notifier::create().value();
    EXPECT_EQ(frontend().set_vring_call(0, other.write_fd()), Answer::kAccepted);
    EXPECT_EQ(drain_notification(other.read_fd()), DrainResult::kSignalled);
}

TEST_F(RingMessages, WithoutACallDescriptorRequestsCompleteSilently) {
    run();
    EXPECT_EQ(frontend().set_vring_call(0, -1), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    EXPECT_TRUE(buffers().answered());
}

TEST_F(RingMessages, SetVringErrOnARunningRingIsTheOneThatIsSignalled) {
    run();
    const auto other = Notifier::create().value();
    EXPECT_EQ(frontend().set_vring_err(0, other.write_fd()), Answer::kAccepted);
    queue().split()->publish_head(queue().size());
    queue().kick();
    EXPECT_TRUE(
        eventually([&] { return drain_notification(other.read_fd()) == DrainResult::kSignalled; }));
    EXPECT_FALSE(queue().wait_error(driver::Deadline::min()));
}

TEST_F(RingMessages, ARingThatTheDeviceCannotStartIsRefused) {
    prepare();
    device_.refuse_start(true);
    expect_refusal(Refusal::kDevice, [&] { return queue().start(frontend(), memory_); });
    device_.refuse_start(false);
    start_and_enable();
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
