// SPDX-License-Identifier: Apache-2.0
// Drain and resume of daemons, each a process with a guest of its own.
#include <chrono>
#include <cstdlib>
#include <future>
#include <string>
#include <vector>

#include <signal.h>

#include "tests/integration/blk_control.h"

namespace outrigger::testing {
namespace {

/// Time in which nothing happens.
constexpr auto kQuietTime = std::chrono::milliseconds(100);

void describe(v1::Request& request) {
    request.mutable_describe();
}

class DrainTest : public BlkControlTest {
  protected:
    [[nodiscard]] v1::Reply drain(const std::string& device = "", uint32_t seconds = 0) const {
        return ask([&](v1::Request& request) {
            request.set_device(device);
            request.mutable_drain()->set_timeout_seconds(seconds);
        });
    }

    [[nodiscard]] v1::Reply resume_device(const std::string& device) const {
        return ask([&](v1::Request& request) {
            request.set_device(device);
            request.mutable_resume();
        });
    }

    [[nodiscard]] v1::Device device(int index = 0) const {
        return ask(describe).program().devices(index);
    }

    /// Two disks of nothing.
    void start_two() {
        other_ = (folder_ / "other.sock").string();
        start({"--device",
               "socket-path=" + socket_path() + ",null-size=1M,name=one",
               "--device",
               "socket-path=" + other_ + ",null-size=1M,name=two"});
    }

    std::string other_;
};

TEST_F(DrainTest, BeginsNoRequestUntilResume) {
    start();
    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
    EXPECT_EQ(device().intake(), v1::Device::OPEN);

    EXPECT_TRUE(drain().has_done());
    EXPECT_EQ(device().intake(), v1::Device::DRAINED);
    guest.submit(1, VIRTIO_BLK_T_OUT, 4096);
    EXPECT_FALSE(guest.wait_answer(kQuietTime));
    EXPECT_EQ(device().queue_statistics(0).requests_taken(), 1U);
    EXPECT_TRUE(drain().has_done()) << "again";

    resume();
    EXPECT_EQ(guest.wait_answer(), 1U);
    EXPECT_EQ(device().intake(), v1::Device::OPEN);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
}

/// A request that the host has failed is held, and so in flight, until the operator resumes.
TEST_F(DrainTest, WaitsForRequestsInFlightAndTellsOfThem) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    let_writes_fail();
    guest.submit(1, VIRTIO_BLK_T_OUT, 2 * kLimit);
    ASSERT_TRUE(eventually([&] { return block().held_requests() == 1; }));

    const v1::Reply late = drain("", 1);
    EXPECT_EQ(late.error().code(), v1::Error::FAILED);
    EXPECT_NE(late.error().message().find("1 requests are still in flight"), std::string::npos)
        << late.error().message();
    EXPECT_EQ(device().intake(), v1::Device::DRAINING);

    // One that waits without limit is told when it is resumed before its end.
    auto waiting = std::async(std::launch::async, [this] { return drain(); });
    EXPECT_EQ(waiting.wait_for(kQuietTime), std::future_status::timeout);
    heal();
    resume();
    EXPECT_EQ(waiting.get().error().code(), v1::Error::INVALID);
    EXPECT_EQ(guest.wait_answer(), 1U);
    EXPECT_EQ(guest.status(1), VIRTIO_BLK_S_OK);
    EXPECT_EQ(device().intake(), v1::Device::OPEN);
}

TEST_F(DrainTest, TheAnswerComesWithTheLastRequest) {
    start({"--limit-ops=10:1"});
    ControlGuest guest = connect();
    for (uint32_t slot = 0; slot < 4; ++slot) {
        guest.submit(slot, VIRTIO_BLK_T_IN, 0);
    }
    EXPECT_TRUE(drain().has_done());
    const v1::QueueStatistics queue = device().queue_statistics(0);
    EXPECT_EQ(queue.requests_in_flight(), 0U);
    // As many as it says have an answer that is visible by now.
    for (uint64_t i = 0; i < queue.requests_answered(); ++i) {
        EXPECT_TRUE(guest.queue().poll_used().has_value());
    }
    EXPECT_FALSE(guest.queue().poll_used().has_value());
    resume();
    EXPECT_TRUE(eventually([&] { return device().queue_statistics(0).requests_answered() == 4; }));
}

TEST_F(DrainTest, HoldsForTheNextFrontEndToo) {
    start();
    {
        const ControlGuest guest = connect();
        EXPECT_TRUE(drain().has_done());
    }
    ASSERT_TRUE(eventually([&] { return !device().connected(); }));
    EXPECT_EQ(device().intake(), v1::Device::DRAINED);
    ControlGuest guest = connect();
    guest.submit(1, VIRTIO_BLK_T_IN, 0);
    EXPECT_FALSE(guest.wait_answer(kQuietTime));
    EXPECT_TRUE(eventually([&] { return device().intake() == v1::Device::DRAINED; }));
    resume();
    EXPECT_EQ(guest.wait_answer(), 1U);
}

/// GET_VRING_BASE: what was not taken stays in the ring.
TEST_F(DrainTest, ARingStopsAndStartsWhileDrained) {
    start();
    ControlGuest guest = connect();
    EXPECT_TRUE(drain().has_done());
    guest.submit(1, VIRTIO_BLK_T_IN, 0);
    ASSERT_TRUE(guest.frontend().get_vring_base(0).has_value());
    ASSERT_TRUE(guest.start_queue());
    EXPECT_FALSE(guest.wait_answer(kQuietTime));
    resume();
    EXPECT_EQ(guest.wait_answer(), 1U);
}

TEST_F(DrainTest, OneDeviceOfSeveralOrAll) {
    start_two();
    ControlGuest one = connect();
    ControlGuest two = connect_to(other_);
    EXPECT_EQ(drain("three").error().code(), v1::Error::UNKNOWN_DEVICE);
    EXPECT_TRUE(drain("two").has_done());
    EXPECT_EQ(one.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    two.submit(1, VIRTIO_BLK_T_IN, 0);
    EXPECT_FALSE(two.wait_answer(kQuietTime));
    EXPECT_TRUE(drain().has_done());
    one.submit(1, VIRTIO_BLK_T_IN, 0);
    EXPECT_FALSE(one.wait_answer(kQuietTime));
    EXPECT_TRUE(resume_device("two").has_done());
    EXPECT_EQ(two.wait_answer(), 1U);
    EXPECT_FALSE(one.wait_answer(kQuietTime));
    resume();
    EXPECT_EQ(one.wait_answer(), 1U);
}

TEST_F(DrainTest, PauseAndDrainEndTogether) {
    start();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask([](v1::Request& request) { request.mutable_pause(); }).has_done());
    EXPECT_TRUE(drain().has_done());
    guest.submit(1, VIRTIO_BLK_T_IN, 0);
    EXPECT_FALSE(guest.wait_answer(kQuietTime));
    resume();
    EXPECT_EQ(guest.wait_answer(), 1U);
    EXPECT_EQ(block().state(), v1::BlockDevice::RUNNING);
}

/// The next process begins as the one before ended, and takes what a guest asked meanwhile.
TEST_F(DrainTest, ProcessesThatAreKilledAreFollowedByOneThatIsDrained) {
    start({"--keeper=fork", "--keeper-restarts=1000"});
    ControlGuest guest = connect();
    EXPECT_TRUE(drain().has_done());
    guest.submit(1, VIRTIO_BLK_T_IN, 0);
    for (int i = 0; i < 2; ++i) {
        const auto before = ask(describe).program().pid();
        ASSERT_EQ(::kill(static_cast<pid_t>(before), SIGKILL), 0);
        ASSERT_TRUE(eventually([&] {
            const auto socket = ctl::connect_to(control_path(), std::chrono::seconds(1));
            v1::Request request;
            describe(request);
            const auto reply = socket ? ctl::ask(socket->get(), request, -1, kPatience)
                                      : Result<v1::Reply>(failure(socket.error()));
            return reply && reply->program().pid() != before;
        })) << daemon_->complained();
        // Its ring has begun, and says that it is quiet.
        EXPECT_TRUE(eventually([&] { return device().intake() == v1::Device::DRAINED; }));
        EXPECT_FALSE(guest.wait_answer(kQuietTime));
    }
    resume();
    EXPECT_EQ(guest.wait_answer(), 1U);
    // And one behind that is not.
    ASSERT_EQ(::kill(static_cast<pid_t>(ask(describe).program().pid()), SIGKILL), 0);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
}

/// What a process had taken, and not answered, was taken before the drain.
TEST_F(DrainTest, RequestsOfAProcessThatIsKilledAreAnsweredByTheNext) {
    start({"--on-error=stop", "--keeper=fork", "--keeper-restarts=1000"});
    ControlGuest guest = connect();
    const pid_t before = daemon_->first_child();
    ASSERT_GT(before, 0);
    const rlimit limit{.rlim_cur = kLimit, .rlim_max = RLIM_INFINITY};
    ASSERT_EQ(::prlimit(before, RLIMIT_FSIZE, &limit, nullptr), 0);
    guest.submit(1, VIRTIO_BLK_T_OUT, 2 * kLimit);
    ASSERT_TRUE(eventually([&] { return block().held_requests() == 1; }));
    EXPECT_EQ(drain("", 1).error().code(), v1::Error::FAILED);
    // The next one may write.
    ASSERT_EQ(::kill(before, SIGKILL), 0);
    EXPECT_EQ(guest.wait_answer(), 1U) << daemon_->complained();
    EXPECT_EQ(guest.status(1), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(eventually([&] { return device().intake() == v1::Device::DRAINED; }));
    guest.submit(2, VIRTIO_BLK_T_IN, 0);
    EXPECT_FALSE(guest.wait_answer(kQuietTime));
    resume();
    EXPECT_EQ(guest.wait_answer(), 2U);
}

TEST_F(DrainTest, OutriggerctlDrainsAndSays) {
    const char* const program = std::getenv("OUTRIGGER_CTL_PROGRAM");
    ASSERT_NE(program, nullptr) << "names the program under test";
    start({"--on-error=stop"});
    const auto run = [&](std::vector<std::string> arguments) {
        arguments.push_back("--socket=" + control_path());
        return std::make_unique<ChildProcess>(program,
                                              ChildProcess::Options{.arguments = arguments});
    };
    ControlGuest guest = connect();
    EXPECT_EQ(run({"drain"})->wait(), (Ended{.status = 0}));
    const auto list = run({"list"});
    EXPECT_EQ(list->wait(), (Ended{.status = 0}));
    EXPECT_NE(list->printed().find("connected  drained"), std::string::npos) << list->printed();
    EXPECT_EQ(run({"resume"})->wait(), (Ended{.status = 0}));
    let_writes_fail();
    guest.submit(1, VIRTIO_BLK_T_OUT, 2 * kLimit);
    ASSERT_TRUE(eventually([&] { return block().held_requests() == 1; }));
    const auto late = run({"drain", "--timeout=1"});
    EXPECT_EQ(late->wait(), (Ended{.status = 1}));
    EXPECT_NE(late->complained().find("1 requests are still in flight after 1 s"),
              std::string::npos)
        << late->complained();
    heal();
    EXPECT_EQ(run({"resume"})->wait(), (Ended{.status = 0}));
    EXPECT_EQ(guest.wait_answer(), 1U);
}

}  // namespace
}  // namespace outrigger::testing
