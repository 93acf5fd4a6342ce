// SPDX-License-Identifier: Apache-2.0
// A disk whose host fails and that is told to hold such requests; and a disk whose image is
// swapped.
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/blk_control.h"
#include "tests/support/dirty_log_file.h"

namespace outrigger::testing {
namespace {

using driver::Answer;

class BlkStop : public BlkControlTest {
  protected:
    void hold_one(ControlGuest& guest, uint32_t slot = 0, int fill = 9) {
        let_writes_fail();
        guest.submit(slot, VIRTIO_BLK_T_OUT, 2 * kLimit, 4096, fill);
        ASSERT_TRUE(eventually([&] { return block().held_requests() == 1; }));
    }
};

// --- Held requests -------------------------------------------------------------------------------

TEST_F(BlkStop, FailureIsReportedUnlessThePolicySaysOtherwise) {
    start();
    ControlGuest guest = connect();
    let_writes_fail();
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 2 * kLimit), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(block().state(), v1::BlockDevice::RUNNING);
}

TEST_F(BlkStop, HeldRequestSucceedsWhenTheDiskIsResumed) {
    start({"--on-error=enospc"});
    ControlGuest guest = connect();
    hold_one(guest);
    const v1::BlockDevice stopped = block();
    EXPECT_EQ(stopped.state(), v1::BlockDevice::STOPPED);
    EXPECT_NE(stopped.stop_reason().find("File too large"), std::string::npos);
    EXPECT_EQ(stopped.counters().stops(), 1U);
    // Nothing else is begun meanwhile.
    guest.submit(1, VIRTIO_BLK_T_IN, 0);
    EXPECT_EQ(guest.wait_answer(std::chrono::milliseconds(50)), std::nullopt);
    heal();
    resume();
    std::vector<uint32_t> answered = {guest.wait_answer().value(), guest.wait_answer().value()};
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.status(1), VIRTIO_BLK_S_OK);
    EXPECT_EQ(block().state(), v1::BlockDevice::RUNNING);
    EXPECT_EQ(block().held_requests(), 0U);
    EXPECT_TRUE(backing_.holds(2 * kLimit, 4096, 9));
}

// SET_FEATURES with LOG_ALL: the guest begins to move, and knows nothing of it.
TEST_F(BlkStop, MigrationThatBeginsLeavesARequestHeldAndMarksIt) {
    start({"--on-error=stop"});
    ControlGuest guest(connect_frontend(), FeatureSet::of({bit(wire::ProtocolFeature::kLogShmfd)}));
    hold_one(guest);
    const DirtyLogFile log(uint64_t{0x5000'0000} / kLogPage);
    ASSERT_EQ(
        guest.frontend().set_log_base({.size = log.bytes(), .offset = log.offset()}, log.fd()),
        Answer::kAccepted);
    ASSERT_EQ(guest.frontend().set_features(guest.features().with(wire::kLogAllBit)),
              Answer::kAccepted);
    EXPECT_EQ(block().held_requests(), 1U);
    EXPECT_EQ(block().state(), v1::BlockDevice::STOPPED);
    EXPECT_FALSE(guest.queue().poll_used());
    (void)log.take_pages();
    heal();
    resume();
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(log.pages().contains(static_cast<uint64_t>(guest.status_address(0)) / kLogPage));
}

TEST_F(BlkStop, RequestThatFailsAgainIsHeldAgain) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    hold_one(guest);
    resume();
    ASSERT_TRUE(eventually([&] { return block().counters().stops() == 2; }));
    EXPECT_EQ(block().state(), v1::BlockDevice::STOPPED);
    EXPECT_EQ(block().held_requests(), 1U);
    EXPECT_EQ(guest.status(0), ControlGuest::kUnanswered);
    heal();
    resume();
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_OK);
}

TEST_F(BlkStop, ManyRequestsThatFailTogetherAreAllTriedAgain) {
    start({"--on-error=stop", "--queue-threads=2"});
    ControlGuest guest = connect();
    let_writes_fail();
    for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
        guest.submit(slot, VIRTIO_BLK_T_OUT, 2 * kLimit + uint64_t{slot} * 4096, 4096, 3);
    }
    ASSERT_TRUE(eventually([&] { return block().state() == v1::BlockDevice::STOPPED; }));
    heal();
    resume();
    for (uint32_t i = 0; i < ControlGuest::kSlots; ++i) {
        const auto slot = guest.wait_answer();
        ASSERT_TRUE(slot);
        EXPECT_EQ(guest.status(*slot), VIRTIO_BLK_S_OK);
    }
    EXPECT_TRUE(backing_.holds(2 * kLimit, ControlGuest::kSlots * 4096, 3));
}

TEST_F(BlkStop, PolicyChangesAtRunTime) {
    start();
    const auto policy = [](v1::ErrorPolicy value) {
        return [=](v1::Request& request) { request.mutable_set_error_policy()->set_policy(value); };
    };
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(policy(v1::STOP)).has_done());
    EXPECT_EQ(block().error_policy(), v1::STOP);
    hold_one(guest);
    // What is held stays so: the next failure is reported.
    EXPECT_TRUE(ask(policy(v1::REPORT)).has_done());
    resume();
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask(policy(v1::POLICY_UNSPECIFIED)).error().code(), v1::Error::INVALID);
}

TEST_F(BlkStop, StoppedRingIsGivenBackWithItsErrors) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    hold_one(guest);
    const auto base = guest.queue().stop(guest.frontend());
    ASSERT_TRUE(base);
    ASSERT_TRUE(guest.queue().poll_used());
    EXPECT_EQ(*base, 1);
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(block().held_requests(), 0U);
}

TEST_F(BlkStop, ResetEndsAStop) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    hold_one(guest);
    EXPECT_EQ(guest.frontend().reset_device(), Answer::kAccepted);
    EXPECT_EQ(block().state(), v1::BlockDevice::RUNNING);
    EXPECT_EQ(block().held_requests(), 0U);
}

TEST_F(BlkStop, GuestThatLeavesEndsAStop) {
    start({"--on-error=stop"});
    {
        ControlGuest guest = connect();
        hold_one(guest);
    }
    heal();
    ControlGuest next = connect();
    EXPECT_EQ(next.request(VIRTIO_BLK_T_OUT, 2 * kLimit), VIRTIO_BLK_S_OK);
}

TEST_F(BlkStop, MemoryOfAHeldRequestCanBeTakenAway) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    hold_one(guest);
    EXPECT_EQ(guest.frontend().rem_mem_reg(guest.memory(), guest.data_region()), Answer::kAccepted);
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkStop, HeldRequestThatNoLongerFitsIsAnsweredWithAnError) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    hold_one(guest);
    EXPECT_TRUE(ask([](v1::Request& request) {
                    request.mutable_resize()->set_size_bytes(kLimit);
                    request.mutable_resize()->set_force(true);
                }).has_done());
    heal();
    resume();
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(backing_.size(), kLimit);
}

TEST_F(BlkStop, StoppedDaemonEnds) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    hold_one(guest);
    // TearDown() expects a clean end, with the request still held.
}

// --- Pause ---------------------------------------------------------------------------------------

TEST_F(BlkStop, PausedDiskBeginsNothingUntilItIsResumed) {
    start();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask([](v1::Request& request) { request.mutable_pause(); }).has_done());
    EXPECT_EQ(block().state(), v1::BlockDevice::PAUSED);
    guest.submit(0, VIRTIO_BLK_T_OUT, 0, 4096, 4);
    EXPECT_EQ(guest.wait_answer(std::chrono::milliseconds(50)), std::nullopt);
    EXPECT_TRUE(backing_.holds(0, 4096, 0));
    resume();
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_TRUE(backing_.holds(0, 4096, 4));
}

TEST_F(BlkStop, PausedRingCanBeStoppedAndStartedAnew) {
    start();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask([](v1::Request& request) { request.mutable_pause(); }).has_done());
    guest.submit(0, VIRTIO_BLK_T_OUT, 0);
    EXPECT_TRUE(guest.queue().stop(guest.frontend()));
    EXPECT_FALSE(guest.queue().poll_used()) << "it was never taken";
    resume();
}

// --- Another image -------------------------------------------------------------------------------

class BlkSwap : public BlkControlTest {
  protected:
    v1::Reply swap_to(int fd, const std::string& label, bool force = false) const {
        return ask(
            [&](v1::Request& request) {
                request.mutable_swap_image()->set_label(label);
                request.mutable_swap_image()->set_force(force);
            },
            fd);
    }

    v1::Reply swap_to(const TemporaryImage& image, int access = O_RDWR, bool force = false) const {
        const UniqueFd fd(::open(image.path().c_str(), access | O_CLOEXEC));
        EXPECT_TRUE(fd.valid());
        return swap_to(fd.get(), image.path(), force);
    }
};

TEST_F(BlkSwap, WritesGoToTheImageOfTheirTime) {
    start();
    ControlGuest guest = connect();
    const TemporaryImage other(kDiskBytes);
    other.fill(0, 4096, 7);
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 4096, 4096, 1), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(swap_to(other).has_done());
    EXPECT_EQ(block().image(), other.path());
    EXPECT_EQ(guest.read_byte(0), 7);
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 8192, 4096, 2), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(4096, 4096, 1));
    EXPECT_TRUE(backing_.holds(8192, 4096, 0));
    EXPECT_TRUE(other.holds(4096, 4096, 0));
    EXPECT_TRUE(other.holds(8192, 4096, 2));
}

TEST_F(BlkSwap, AnotherSizeIsToldToTheGuest) {
    start();
    ControlGuest guest = connect();
    const TemporaryImage larger(2 * kDiskBytes);
    const TemporaryImage smaller(kDiskBytes / 2);
    EXPECT_TRUE(swap_to(larger).has_done());
    EXPECT_TRUE(guest.take_config_change());
    EXPECT_EQ(guest.capacity_bytes(), 2 * kDiskBytes);
    EXPECT_EQ(swap_to(smaller).error().code(), v1::Error::INVALID);
    EXPECT_EQ(guest.capacity_bytes(), 2 * kDiskBytes);
    EXPECT_TRUE(swap_to(smaller, O_RDWR, true).has_done());
    EXPECT_TRUE(guest.take_config_change());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, kDiskBytes / 2), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkSwap, NoWriteIsLostUnderLoad) {
    for (const char* const engine : {"--io-engine=auto", "--io-engine=threads"}) {
        start({engine, "--queue-threads=2"});
        ControlGuest guest = connect();
        const TemporaryImage other(kDiskBytes);
        std::atomic<bool> stop = false;
        uint32_t blocks = 0;
        std::thread load([&] {
            constexpr uint32_t kBlocksMax = kDiskBytes / 4096;
            for (; blocks < ControlGuest::kSlots; ++blocks) {
                guest.submit(blocks, VIRTIO_BLK_T_OUT, uint64_t{blocks} * 4096, 4096, 0x77);
            }
            uint32_t in_flight = blocks;
            while (in_flight > 0) {
                const auto slot = guest.wait_answer();
                ASSERT_TRUE(slot);
                ASSERT_EQ(guest.status(*slot), VIRTIO_BLK_S_OK);
                --in_flight;
                if (!stop && blocks < kBlocksMax) {
                    guest.submit(*slot, VIRTIO_BLK_T_OUT, uint64_t{blocks++} * 4096, 4096, 0x77);
                    ++in_flight;
                }
            }
        });
        // To the other and back, again and again.
        const UniqueFd first(::open(backing_.path().c_str(), O_RDWR | O_CLOEXEC));
        const UniqueFd second(::open(other.path().c_str(), O_RDWR | O_CLOEXEC));
        for (int round = 0; round < 20; ++round) {
            const bool there = round % 2 == 0;
            EXPECT_TRUE(swap_to(there ? other : backing_).has_done());
        }
        stop = true;
        load.join();
        for (uint32_t i = 0; i < blocks; ++i) {
            const bool in_first = backing_.holds(uint64_t{i} * 4096, 4096, 0x77);
            const bool in_second = other.holds(uint64_t{i} * 4096, 4096, 0x77);
            ASSERT_NE(in_first, in_second) << "block " << i << " of " << blocks;
        }
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        daemon_ = nullptr;
        ASSERT_EQ(::ftruncate(backing_.fd(), 0), 0);
        ASSERT_EQ(::ftruncate(backing_.fd(), kDiskBytes), 0);
    }
}

TEST_F(BlkSwap, OldImageIsLetGo) {
    start();
    ControlGuest guest = connect();
    const TemporaryImage other(kDiskBytes);
    EXPECT_TRUE(swap_to(other).has_done());
    // Its lock is free again: another daemon may have it.
    const ChildProcess second(program_,
                              {.arguments = {"--socket-path=" + (folder_ / "second").string(),
                                             "--blk-file=" + backing_.path()}});
    EXPECT_TRUE(second.wait_complained("listening"));
}

TEST_F(BlkSwap, WithoutAGuestAndBetweenGuests) {
    start();
    const TemporaryImage other(kDiskBytes);
    other.fill(0, 4096, 5);
    EXPECT_TRUE(swap_to(other).has_done());
    EXPECT_EQ(connect().read_byte(0), 5);
    EXPECT_TRUE(swap_to(backing_).has_done());
    EXPECT_EQ(connect().read_byte(0), 0);
}

TEST_F(BlkSwap, ReadOnlyImageMakesTheDiskReadOnly) {
    start();
    ControlGuest guest = connect();
    const TemporaryImage other(kDiskBytes);
    EXPECT_TRUE(swap_to(other, O_RDONLY).has_done());
    EXPECT_TRUE(block().image_read_only());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(swap_to(backing_).has_done());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
}

TEST_F(BlkSwap, WhatIsNoImageIsRefusedAndNothingChanges) {
    start();
    ControlGuest guest = connect();
    const TemporaryImage empty(0);
    const TemporaryImage odd(kDiskBytes + 100);
    int ends[2] = {};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd pipe_read(ends[0]);
    const UniqueFd pipe_write(ends[1]);
    const UniqueFd directory(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const UniqueFd write_only(::open(odd.path().c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_TRUE(swap_to(-1, "none").has_error());
    EXPECT_TRUE(swap_to(pipe_read.get(), "pipe").has_error());
    EXPECT_TRUE(swap_to(operator_socket().get(), "socket").has_error());
    EXPECT_TRUE(swap_to(directory.get(), "directory").has_error());
    EXPECT_TRUE(swap_to(write_only.get(), "write only").has_error());
    EXPECT_TRUE(swap_to(empty).has_error());
    EXPECT_TRUE(swap_to(odd).has_error());
    EXPECT_TRUE(swap_to(backing_.fd(), "bad\nlabel").has_error());
    EXPECT_TRUE(swap_to(backing_).has_error()) << "it is locked: by ourselves";
    EXPECT_EQ(block().image(), backing_.path());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
}

TEST_F(BlkSwap, HeldRequestsGoToTheNewImage) {
    start({"--on-error=stop"});
    ControlGuest guest = connect();
    const TemporaryImage other(kDiskBytes);
    rlimit limit{.rlim_cur = kLimit, .rlim_max = RLIM_INFINITY};
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    guest.submit(0, VIRTIO_BLK_T_OUT, 2 * kLimit, 4096, 6);
    ASSERT_TRUE(eventually([&] { return block().held_requests() == 1; }));
    EXPECT_TRUE(swap_to(other).has_done());
    EXPECT_EQ(block().state(), v1::BlockDevice::STOPPED);
    limit.rlim_cur = RLIM_INFINITY;
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    resume();
    EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(other.holds(2 * kLimit, 4096, 6));
    EXPECT_TRUE(backing_.holds(2 * kLimit, 4096, 0));
}

}  // namespace
}  // namespace outrigger::testing
