// SPDX-License-Identifier: Apache-2.0
// Operators of a disk whose process is killed and replaced: what they did to it, and what they were
// refused, decides whether the next process may go on.
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include <signal.h>

#include "tests/integration/blk_control.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

using Command = std::function<void(v1::Request&)>;

Command pause() {
    return [](v1::Request& request) { request.mutable_pause(); };
}

Command protect(bool on) {
    return [=](v1::Request& request) { request.mutable_set_read_only()->set_read_only(on); };
}

Command cache(v1::CacheMode mode) {
    return [=](v1::Request& request) { request.mutable_set_cache()->set_cache(mode); };
}

Command swap(const std::string& label) {
    return [=](v1::Request& request) { request.mutable_swap_image()->set_label(label); };
}

class KeeperControlTest : public BlkControlTest {
  protected:
    void start_kept() { start({"--keeper=fork", "--keeper-restarts=1000"}); }

    [[nodiscard]] pid_t worker() const { return daemon_->first_child(); }

    void kill_worker() const {
        const pid_t before = worker();
        ASSERT_GT(before, 0) << daemon_->complained();
        ASSERT_EQ(::kill(before, SIGKILL), 0);
    }

    /// The process is killed, and the guest does not notice.
    void expect_goes_on(ControlGuest& guest) const {
        kill_worker();
        EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK) << daemon_->complained();
    }

    /// The process is killed, and that is the end.
    void expect_ends(ControlGuest& guest) {
        kill_worker();
        EXPECT_TRUE(guest.frontend().wait_closed()) << daemon_->complained();
        EXPECT_EQ(daemon_->wait(), (Ended{.status = -1, .signal = SIGKILL}));
        EXPECT_NE(daemon_->complained().find("was the last"), std::string::npos);
        daemon_.reset();
    }
};

TEST_F(KeeperControlTest, ASwapThatIsRefusedChangesNothing) {
    start_kept();
    ControlGuest guest = connect();
    const TemporaryImage small(1 << 20);
    EXPECT_EQ(ask(swap("small"), small.fd()).error().code(), v1::Error::INVALID) << "takes force";
    expect_goes_on(guest);
    EXPECT_EQ(ask(swap("nothing")).error().code(), v1::Error::INVALID) << "no image came along";
    expect_goes_on(guest);
}

TEST_F(KeeperControlTest, WhatIsSoAlreadyChangesNothing) {
    start_kept();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(protect(false)).has_done());
    expect_goes_on(guest);
    EXPECT_TRUE(ask(cache(v1::WRITE_BACK)).has_done());
    expect_goes_on(guest);
    resume();
    expect_goes_on(guest);
    EXPECT_EQ(ask(cache(v1::CACHE_UNSPECIFIED)).error().code(), v1::Error::INVALID);
    expect_goes_on(guest);
}

TEST_F(KeeperControlTest, WhatWasTakenBackChangesNothing) {
    start_kept();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(pause()).has_done());
    EXPECT_TRUE(ask(pause()).has_done());
    resume();
    expect_goes_on(guest);
    EXPECT_TRUE(ask(protect(true)).has_done());
    EXPECT_TRUE(ask(protect(false)).has_done());
    expect_goes_on(guest);
}

TEST_F(KeeperControlTest, OneOfTwoThatWasTakenBackDoesNotCount) {
    start_kept();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(protect(true)).has_done());
    EXPECT_TRUE(ask(pause()).has_done());
    resume();
    expect_ends(guest);
}

// A front end that connects while the disk is paused, and so what it keeps, goes on afterwards.
TEST_F(KeeperControlTest, WhatCameMeanwhileIsKept) {
    start_kept();
    EXPECT_TRUE(ask(pause()).has_done());
    ControlGuest guest = connect();
    resume();
    expect_goes_on(guest);
}

TEST_F(KeeperControlTest, APauseIsTheEnd) {
    start_kept();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(pause()).has_done());
    expect_ends(guest);
}

TEST_F(KeeperControlTest, WriteProtectionIsTheEnd) {
    start_kept();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(protect(true)).has_done());
    expect_ends(guest);
}

TEST_F(KeeperControlTest, AnotherImageIsTheEnd) {
    start_kept();
    ControlGuest guest = connect();
    const TemporaryImage other(kDiskBytes);
    EXPECT_TRUE(ask(swap("other"), other.fd()).has_done());
    expect_ends(guest);
}

// Also when it is what it was: a guest that saw write-through flushes no more.
TEST_F(KeeperControlTest, AnotherCacheModeIsTheEnd) {
    start_kept();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(cache(v1::WRITE_THROUGH)).has_done());
    EXPECT_EQ(guest.writeback(), 0);
    EXPECT_TRUE(ask(cache(v1::WRITE_BACK)).has_done());
    expect_ends(guest);
}

// Whenever the one comes in the course of the other.
TEST_F(KeeperControlTest, CommandsDuringUpgradesCostNoSession) {
    start_kept();
    ControlGuest guest = connect();
    std::atomic<bool> asking = true;
    std::atomic<int> done = 0;
    std::thread asks([&] {
        while (asking) {
            // Each connection ends with its process.
            auto socket = ctl::connect_to(control_path(), kPatience);
            v1::Request request;
            for (bool answered = socket.has_value(); answered && asking;) {
                request.mutable_pause();
                answered = ctl::ask(socket->get(), request, -1, kPatience).has_value();
                request.mutable_resume();
                answered = answered && ctl::ask(socket->get(), request, -1, kPatience).has_value();
                done += answered ? 1 : 0;
                // Nobody takes over from a disk that is paused.
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
            }
        }
    });
    int taken = 0;
    const auto end = driver::after(3 * kPatience);
    constexpr int kWanted = 5;
    for (int before = 0; taken < kWanted && driver::Clock::now() < end; before = done) {
        ChildProcess program(program_,
                             {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
        taken += program.wait() == Ended{.status = 0} ? 1 : 0;
        EXPECT_TRUE(eventually([&] { return done > before; })) << daemon_->complained();
    }
    asking = false;
    asks.join();
    EXPECT_EQ(taken, kWanted) << daemon_->complained();
    resume();
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK) << daemon_->complained();
}

}  // namespace
}  // namespace outrigger::testing
