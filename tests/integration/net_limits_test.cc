// SPDX-License-Identifier: Apache-2.0
// Limits of what passes a port in a second. Time is only looked at for what came too early.
#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "devices/net/limited_port.h"
#include "tests/integration/net_traps.h"

namespace outrigger::net {
namespace {

using Clock = std::chrono::steady_clock;

// One frame in 50 ms; three pass at once: those of the burst, and the one that is due.
constexpr uint64_t kFramesPerSecond = 20;
constexpr size_t kFrames = 10;
constexpr auto kLeast = std::chrono::milliseconds((kFrames - 3) * 50);

class NetLimitsTest : public ::testing::TestWithParam<bool> {
  protected:
    ~NetLimitsTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
        worker_.reset();
    }

    void serve(const PortLimits& limits) {
        auto port = std::make_unique<PlayedPort>(kAllOffloads);
        port_ = port.get();
        auto limited = std::make_unique<LimitedPort>(std::move(port), limits);
        limited_ = limited.get();
        device_ = std::make_unique<NetDevice>(NetOptions{}, std::move(limited));
        worker_ = Worker::start({.thread_name = "test-limits",
                                 .loop = testing::loop_under_test(),
                                 .cpu = std::nullopt})
                      .value();
        host_ = std::make_unique<testing::SessionHost>(
            *device_, testing::SessionHostOptions{.worker = worker_.get()});
        guest_ =
            std::make_unique<NetGuest>(host_->connect(), NetGuestOptions{.packed = GetParam()});
        ASSERT_TRUE(guest_->is_up());
    }

    /// As an operator does.
    void set(const PortLimits& limits) {
        std::promise<void> done;
        worker_->post([&] {
            limited_->set_limits(limits);
            done.set_value();
        });
        done.get_future().wait();
    }

    void send_all() {
        for (size_t i = 0; i < kFrames; ++i) {
            ASSERT_TRUE(guest_->post_frame(make_frame(make_payload(100 + i))));
        }
        for (size_t i = 0; i < kFrames; ++i) {
            const auto sent = port_->take();
            ASSERT_TRUE(sent);
            EXPECT_EQ(sent->bytes, make_frame(make_payload(100 + i)));
        }
        EXPECT_TRUE(guest_->await_posted(kFrames));
    }

    void receive_all() {
        for (size_t i = 0; i < kFrames; ++i) {
            port_->give(make_frame(make_payload(100 + i)));
        }
        for (size_t i = 0; i < kFrames; ++i) {
            const auto received = guest_->receive();
            ASSERT_TRUE(received);
            EXPECT_EQ(received->bytes, make_frame(make_payload(100 + i)));
        }
    }

    PlayedPort* port_ = nullptr;
    LimitedPort* limited_ = nullptr;
    std::unique_ptr<Worker> worker_;
    std::unique_ptr<NetDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<NetGuest> guest_;
};

TEST_P(NetLimitsTest, GuestWaitsAndLosesNothing) {
    serve({.send = {.frames = kFramesPerSecond}});
    const auto begin = Clock::now();
    send_all();
    EXPECT_GE(Clock::now() - begin, kLeast);
    EXPECT_GT(limited_->waits().value(), 0U);
    receive_all();
}

TEST_P(NetLimitsTest, HostWaitsAndLosesNothing) {
    serve({.receive = {.frames = kFramesPerSecond}});
    const auto begin = Clock::now();
    receive_all();
    EXPECT_GE(Clock::now() - begin, kLeast);
    EXPECT_GT(limited_->waits().value(), 0U);
    send_all();
}

TEST_P(NetLimitsTest, BytesAreCounted) {
    // The first frame is as much as passes in a second.
    serve({.send = {.bytes = 1054}});
    const auto begin = Clock::now();
    ASSERT_TRUE(guest_->post_frame(make_frame(make_payload(1000))));
    ASSERT_TRUE(guest_->post_frame(make_frame("next")));
    ASSERT_TRUE(port_->take());
    ASSERT_TRUE(port_->take());
    EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(900));
}

TEST_P(NetLimitsTest, HostThatTakesNothingCostsNothing) {
    serve({.send = {.frames = kFramesPerSecond}});
    port_->set_room(0);
    ASSERT_TRUE(guest_->post_frame(make_frame("one")));
    EXPECT_TRUE(eventually([&] { return port_->waits() > 0; }));
    for (int i = 0; i < 20; ++i) {
        port_->set_room(0);
    }
    port_->set_room(1);
    EXPECT_TRUE(port_->take());
    EXPECT_TRUE(guest_->await_posted(1));
}

TEST_P(NetLimitsTest, WhoWaitsMayLeave) {
    serve({.send = {.frames = 1}, .receive = {.frames = 1}});
    for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(guest_->post_frame(make_frame("out")));
        port_->give(make_frame("in"));
    }
    EXPECT_TRUE(eventually([&] { return limited_->waits().value() >= 2; }));
    for (const uint32_t ring : {0U, 1U}) {
        ASSERT_TRUE(guest_->frontend().get_vring_base(ring));
    }
    guest_.reset();
}

TEST_P(NetLimitsTest, WhoWaitsGoesOnWhenTheLimitIsTakenAway) {
    // Behind the first of each way nothing would pass for a quarter of an hour.
    serve({.send = {.bytes = 1}, .receive = {.bytes = 1}});
    port_->give(make_frame(make_payload(1000)));
    ASSERT_TRUE(guest_->receive());
    ASSERT_TRUE(guest_->post_frame(make_frame(make_payload(1000))));
    ASSERT_TRUE(port_->take());
    ASSERT_TRUE(guest_->post_frame(make_frame("out")));
    port_->give(make_frame("in"));
    ASSERT_TRUE(eventually([&] { return limited_->waits().value() >= 2; }));
    set({.send = {.bytes = 1}});
    const auto received = guest_->receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("in"));
    EXPECT_FALSE(port_->take_now());
    set({});
    const auto sent = port_->take();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->bytes, make_frame("out"));
    send_all();
    receive_all();
}

TEST_P(NetLimitsTest, LimitOfLaterHolds) {
    serve({});
    send_all();
    receive_all();
    EXPECT_EQ(limited_->waits().value(), 0U);
    set({.send = {.bytes = 1}, .receive = {.bytes = 1}});
    port_->give(make_frame("in"));
    ASSERT_TRUE(guest_->receive());
    ASSERT_TRUE(guest_->post_frame(make_frame("out")));
    ASSERT_TRUE(port_->take());
    ASSERT_TRUE(guest_->post_frame(make_frame("more out")));
    port_->give(make_frame("more in"));
    EXPECT_TRUE(eventually([&] { return limited_->waits().value() >= 2; }));
    EXPECT_FALSE(port_->take_now());
}

INSTANTIATE_TEST_SUITE_P(Rings, NetLimitsTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
