// SPDX-License-Identifier: Apache-2.0
// What breaks stays where it broke, is told, and is mended by stopping and starting.
#include <array>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/support/channel_test.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kNeedsReset = 64;

class Containment : public ChannelTest {
  protected:
    Containment() = default;

    explicit Containment(const EchoDeviceOptions& device) : ChannelTest(device) {}

    void break_ring(size_t index = 0) {
        const uint64_t broken = counters().rings_broken.total();
        const std::array<driver::Segment, 1> nowhere{
            {{.address = GuestAddr{1ULL << 40}, .length = 16, .device_writable = true}}};
        ASSERT_TRUE(queue(index).try_add(nowhere, 0));
        queue(index).publish_and_kick();
        EXPECT_TRUE(queue(index).wait_error(driver::after(kPatience)));
        EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == broken + 1; }));
    }

    void restart(size_t index) {
        EXPECT_TRUE(queue(index).stop(frontend()));
        queue(index).reset();
        EXPECT_EQ(queue(index).start(frontend(), memory_), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(static_cast<uint32_t>(index), 1), Answer::kAccepted);
    }

    /// A second region of a file that can shrink, and does. No ring lies in it.
    driver::RegionId lose_memory(GuestAddr address = GuestAddr{1ULL << 32}) {
        const auto region = memory_
                                .add_region({.guest_address = address,
                                             .size = 1 << 20,
                                             .backing = driver::RegionBacking::kUnlinkedFile})
                                .value();
        EXPECT_EQ(frontend().add_mem_reg(memory_, region), Answer::kAccepted);
        EXPECT_EQ(::ftruncate(memory_.fd(region), 0), 0);
        return region;
    }

    /// The device touches the memory that is not there any more, through ring `index`.
    void touch(driver::RegionId region, size_t index = 0) {
        const std::array<driver::Segment, 2> chain{
            {{.address = GuestAddr{memory_.description(region).guest_address},
              .length = 64,
              .device_writable = false},
             {.address = buffers(index).response(), .length = 64, .device_writable = true}}};
        ASSERT_TRUE(queue(index).try_add(chain, 0));
        queue(index).publish_and_kick();
    }
};

TEST_F(Containment, ABrokenRingIsToldAsAConfigChangeOnce) {
    run_with_channel({.protocol_features = kEverything, .queue_count = 2});
    break_ring(0);
    const auto message = expect_request(BackendRequest::kConfigChangeMsg);
    EXPECT_NE(frontend().get_status().value() & kNeedsReset, 0U);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    // The device needs a reset already: another ring adds nothing to that.
    break_ring(1);
    settle();
    EXPECT_FALSE(channel().has_input());
}

TEST_F(Containment, GetVringBaseClearsABrokenRing) {
    run({.protocol_features = kEverything, .queue_count = 2});
    break_ring();
    expect_echo(1);
    EXPECT_NE(frontend().get_status().value() & kNeedsReset, 0U);
    restart(0);
    EXPECT_EQ(frontend().get_status().value() & kNeedsReset, 0U);
    expect_echo(0);
}

TEST_F(Containment, ResetDeviceClearsABrokenRing) {
    run();
    break_ring();
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    EXPECT_EQ(frontend().get_status().value(), 0U);
}

// Row 13: zeroes are where guest memory was, and no ring can know whether it read some.
TEST_F(Containment, LostMemoryStopsEveryRingOfTheSession) {
    run_with_channel({.protocol_features = kEverything, .queue_count = 2});
    expect_echo(0);
    expect_echo(1);
    const auto lost = lose_memory();
    touch(lost, 0);
    EXPECT_TRUE(queue(0).wait_error(driver::after(kPatience)));
    EXPECT_TRUE(queue(1).wait_error(driver::after(kPatience)));
    EXPECT_TRUE(
        eventually([&] { return counters().rings_broken.value(RingError::kMemoryLost) == 2; }));
    EXPECT_NE(frontend().get_status().value() & kNeedsReset, 0U);
    (void)expect_request(BackendRequest::kConfigChangeMsg);
}

TEST_F(Containment, RingsComeBackOneByOneWhenTheLostMemoryIsGone) {
    run({.protocol_features = kEverything, .queue_count = 2});
    const auto lost = lose_memory();
    touch(lost, 0);
    EXPECT_TRUE(queue(0).wait_error(driver::after(kPatience)));
    EXPECT_TRUE(queue(1).wait_error(driver::after(kPatience)));
    EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == 2; }));
    ASSERT_EQ(frontend().rem_mem_reg(memory_, lost), Answer::kAccepted);
    restart(0);
    // The other one is still broken, and this one is not.
    EXPECT_NE(frontend().get_status().value() & kNeedsReset, 0U);
    expect_echo(0);
    restart(1);
    EXPECT_EQ(frontend().get_status().value() & kNeedsReset, 0U);
    expect_echo(1);
    EXPECT_EQ(counters().rings_broken.total(), 2U);
}

class ContainmentOfThree : public Containment {
  protected:
    ContainmentOfThree() : Containment({.queue_count = 3, .has_abilities = true}) {}
};

// A ring that was left broken by an earlier loss does not hide the next one.
TEST_F(ContainmentOfThree, ASecondLossStopsTheRingsThatCameBack) {
    run({.protocol_features = kEverything, .queue_count = 3});
    const auto first = lose_memory();
    touch(first, 0);
    EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == 3; }));
    ASSERT_EQ(frontend().rem_mem_reg(memory_, first), Answer::kAccepted);
    restart(0);
    restart(1);
    expect_echo(0);
    expect_echo(1);
    const auto second = lose_memory(GuestAddr{1ULL << 33});
    touch(second, 0);
    EXPECT_TRUE(queue(1).wait_error(driver::after(kPatience)));
    EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == 5; }));
    EXPECT_EQ(counters().rings_broken.value(RingError::kMemoryLost), 5U);
}

// --- Hang-ups ----------------------------------------------------------------------------------

class HangUp : public ChannelTest {
  protected:
    void hold_one_request() {
        run();
        device_.hold(true);
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 0));
        queue().publish_and_kick();
        ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    }

    /// Sends a request that waits for the one that is held.
    void send_get_vring_base() {
        const wire::VringState state{.index = 0, .num = 0};
        ASSERT_EQ(frontend().send({.request = number(FrontendRequest::kGetVringBase),
                                   .flags = wire::kVersion,
                                   .size = sizeof state},
                                  bytes_of(state)),
                  Answer::kUnasked);
    }
};

TEST_F(HangUp, IsNoticedWhileARequestWaitsForAWorker) {
    hold_one_request();
    send_get_vring_base();
    frontend().close();
    EXPECT_TRUE(eventually([&] { return counters().closed.total() == 1; }));
    EXPECT_EQ(device_.held(), 1U);
    device_.release_held(QueueIndex{0});
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    device_.hold(false);
    reconnect();
    expect_echo();
}

// --- Front ends that put a worker to sleep -----------------------------------------------------

/// Takes O_NONBLOCK off the call descriptor, which both sides share, and fills it.
class SleepingWorker : public HangUp {
  protected:
    void SetUp() override {
        if (kPortableBuild) {
            GTEST_SKIP() << "the system has no read that never waits";
        }
        HangUp::SetUp();
    }

    void put_to_sleep() {
        run();
        const int call = queue().call_fd();
        const int flags = ::fcntl(call, F_GETFL);
        ASSERT_EQ(::fcntl(call, F_SETFL, flags & ~O_NONBLOCK), 0);
        const uint64_t full = UINT64_MAX - 1;
        // SET_VRING_CALL may have signalled it.
        (void)drain_notification(call);
        ASSERT_EQ(::write(call, &full, sizeof full), 8);
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 0));
        queue().publish_and_kick();
        ASSERT_TRUE(eventually([&] { return device_.answered() > 0; }));
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
};

TEST_F(SleepingWorker, ServesTheNextFrontEnd) {
    put_to_sleep();
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    reconnect();
    expect_echo();
}

TEST_F(SleepingWorker, ServesTheNextFrontEndAfterOneThatAskedForMore) {
    put_to_sleep();
    send_get_vring_base();
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    reconnect();
    expect_echo();
}

TEST_F(SleepingWorker, DoesNotKeepUsFromClosing) {
    put_to_sleep();
    host_->close_session();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
}

// Only its own end of sending: a front end that waits for its last answer gets it.
TEST_F(HangUp, AnEndOfSendingIsNone) {
    hold_one_request();
    send_get_vring_base();
    frontend().finish_sending();
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    EXPECT_EQ(counters().closed.total(), 0U);
    device_.release_held(QueueIndex{0});
    const auto reply = frontend().receive();
    ASSERT_TRUE(reply) << describe(reply.error());
    EXPECT_EQ(reply->header.request, number(FrontendRequest::kGetVringBase));
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
}

}  // namespace
}  // namespace outrigger::testing
