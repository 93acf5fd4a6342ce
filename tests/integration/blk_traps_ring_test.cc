// SPDX-License-Identifier: Apache-2.0
// Traps 9 to 19: chains, answers and the ends of queues.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "tests/integration/blk_traps.h"

namespace outrigger::testing {
namespace {

// --- 9: framing ----------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap09HeaderInPiecesDataBesideItAndStatusBehindTheData) {
    run();
    // Two pieces of the header, of which the second has the data in the same buffer.
    const Segment head = header(VIRTIO_BLK_T_OUT, 8);
    std::vector<std::byte> rest = bytes_of(head);
    rest.erase(rest.begin(), rest.begin() + 5);
    rest.insert(rest.end(), 1024, std::byte{0x31});
    EXPECT_EQ(status_of_request({{head.address, 5, false}, readable(rest), writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(4096, 1024, 0x31));
    // Data over two buffers, of which the second ends in the status.
    const Segment first = writable(700);
    const Segment second = writable(325);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, 8), first, second}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(bytes_of(first), bytes(700, 0x31));
    EXPECT_EQ(bytes_of(second).front(), std::byte{0x31});
    EXPECT_EQ(bytes_of(second)[323], std::byte{0x31});
    EXPECT_EQ(last_length_, 1025U);
}

// --- 10: chains ----------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap10LoopBreaksItsRingAlone) {
    run({.queue_count = 2});
    const Segment head = header(VIRTIO_BLK_T_IN, 0);
    driver::SplitRing& ring = *queue(0).split();
    for (uint16_t i = 0; i < 2; ++i) {
        ring.write_descriptor(i,
                              {.address = static_cast<uint64_t>(head.address),
                               .length = 16,
                               .flags = driver::kDescriptorNext,
                               .next = static_cast<uint16_t>(1 - i)});
    }
    ring.publish_head(0);
    queue(0).kick();
    EXPECT_TRUE(queue(0).wait_error(driver::after(kPatience)));
    EXPECT_EQ(fault_.count(IoOpcode::kRead), 0U);
    EXPECT_EQ(write(0, 512, 0x31, 1), VIRTIO_BLK_S_OK) << "the other queue lives";
}

TEST_F(BlkTraps, Trap10HeadThatIsInFlightTwiceBreaksTheRingAndNothingElse) {
    run({.queue_count = 2});
    fault_.set_rule(holds(IoOpcode::kRead));
    const Segment head = header(VIRTIO_BLK_T_IN, 0);
    const Segment target = writable(513);
    driver::SplitRing& ring = *queue(0).split();
    ring.write_descriptor(0,
                          {.address = static_cast<uint64_t>(head.address),
                           .length = 16,
                           .flags = driver::kDescriptorNext,
                           .next = 1});
    ring.write_descriptor(1,
                          {.address = static_cast<uint64_t>(target.address),
                           .length = 513,
                           .flags = driver::kDescriptorWrite,
                           .next = 0});
    ring.publish_head(0);
    queue(0).kick();
    ASSERT_TRUE(fault_.wait_held(1));
    ring.publish_head(0);
    queue(0).kick();
    EXPECT_TRUE(queue(0).wait_error(driver::after(kPatience)));
    EXPECT_EQ(fault_.count(IoOpcode::kRead), 1U);
    fault_.release();
    EXPECT_EQ(write(0, 512, 0x31, 1), VIRTIO_BLK_S_OK);
}

// --- 11: what cannot be understood ---------------------------------------------------------------

TEST_F(BlkTraps, Trap11ChainWithAStatusByteIsAnsweredWhateverElseItLacks) {
    run();
    EXPECT_EQ(status_of_request({writable(1)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of_request({readable(bytes(15, 0)), writable(1)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(counters().refused.value(BlkRefusal::kHeaderShort), 2U);
}

TEST_F(BlkTraps, Trap11ChainWithoutOneIsCountedAndBreaksTheRing) {
    run();
    const std::array segments{header(VIRTIO_BLK_T_OUT, 0), readable(bytes(512, 0x31))};
    ASSERT_TRUE(queue().try_add(segments, 0));
    queue().publish_and_kick();
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kNoStatus), 1U);
    EXPECT_EQ(fault_.count(IoOpcode::kWrite), 0U) << "nobody could tell whether it worked";
}

// --- 12: used lengths ----------------------------------------------------------------------------

TEST_F(BlkTraps, Trap12UsedLengthIsWhatWasWrittenWithTheStatus) {
    run();
    std::vector<std::byte> in;
    EXPECT_EQ(read(0, 4096, in), VIRTIO_BLK_S_OK);
    EXPECT_EQ(last_length_, 4097U);
    EXPECT_EQ(write(0, 4096, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_EQ(last_length_, 1U);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(last_length_, 1U);
    fault_.set_rule(bad_sectors(0, 512));
    EXPECT_EQ(read(0, 4096, in), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(last_length_, 4097U) << "the status is the last byte, and must be covered";
}

// --- 13: read-only -------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap13ReadOnlyDiskDoesNotChangeAndFlushes) {
    backing_.fill(0, 65536, 0x61);
    run({.read_only = true});
    EXPECT_TRUE(running_.agreement.features.has(VIRTIO_BLK_F_RO));
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_DISCARD, 0), range(0, 8), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_WRITE_ZEROES, 0), range(0, 8), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 65536, 0x61));
}

// --- 14: large requests --------------------------------------------------------------------------

TEST_F(BlkTraps, Trap14MoreBuffersThanOneCallTakes) {
    run({.queue_size = 64, .indirect_segments_max = 1024});
    // Each buffer lies over the border of two regions, so that the kernel sees twice as many.
    const auto upper =
        memory_.add_region({.guest_address = GuestAddr{0x10000 + (8U << 20)}, .size = 1 << 20})
            .value();
    ASSERT_EQ(frontend_->add_mem_reg(memory_, upper), driver::Answer::kAccepted);
    const GuestAddr border{0x10000 + (8U << 20)};
    const GuestAddr start{static_cast<uint64_t>(border) - 256};
    memory_.write(start, bytes(256, 0x31));
    memory_.write(border, bytes(256, 0x31));
    std::vector<Segment> segments{header(VIRTIO_BLK_T_OUT, 0)};
    segments.insert(segments.end(), 1000, {start, 512, false});
    segments.push_back(writable(1));
    EXPECT_EQ(status_of_request(segments), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 1000 * 512, 0x31));
    EXPECT_GE(fault_.count(IoOpcode::kWrite), 2U) << "the kernel takes 1024 at a time";
}

// --- 15: again -----------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap15HostThatSaysAgainIsAskedAgain) {
    run();
    std::atomic<int> refusals = 0;
    fault_.set_rule([&](const HostCall&) {
        const int number = refusals.fetch_add(1);
        return number < 6 ? CallFate{.kind = CallFate::Kind::kAnswer,
                                     .value = number % 2 == 0 ? -EAGAIN : -EINTR}
                          : CallFate{};
    });
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 512, 0x31));
    EXPECT_EQ(fault_.count(IoOpcode::kWrite), 7U);
    fault_.set_rule(nullptr);
}

TEST_F(BlkTraps, Trap15AFullRingOfRequestsIsServedWithoutAnError) {
    run({.queue_size = 1024, .indirect_segments_max = 16});
    std::vector<Segment> statuses;
    const Segment head = header(VIRTIO_BLK_T_IN, 0);
    const Segment target = writable(512);
    for (int i = 0; i < 1024; ++i) {
        statuses.push_back(writable(1));
        const std::array segments{head, target, statuses.back()};
        ASSERT_TRUE(queue().try_add(segments, 0, driver::ChainLayout::kIndirect));
    }
    queue().publish_and_kick();
    ASSERT_TRUE(wait_answers(1024));
    EXPECT_TRUE(std::ranges::all_of(
        statuses, [&](const Segment& s) { return status_in(s) == VIRTIO_BLK_S_OK; }));
}

TEST_F(BlkTraps, Trap15FullDiskIsAnErrorAndRoomLaterIsUsed) {
    run();
    fault_.set_rule(answers(IoOpcode::kWrite, -ENOSPC));
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_IOERR);
    fault_.set_rule(nullptr);
    EXPECT_EQ(write(0, 512, 0x32), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 512, 0x32));
}

// --- 16: order of publication --------------------------------------------------------------------

/// What a restart finds in the ring is what was published; the log of requests in flight comes with
/// INFLIGHT_SHMFD.
TEST_F(BlkTraps, Trap16WhatIsVisibleAsUsedIsDone) {
    run({.queue_size = 64});
    for (int i = 0; i < 32; ++i) {
        backing_.fill(static_cast<uint64_t>(i) * 4096, 4096, i + 1);
    }

    struct Slot {
        Segment head, target, status;
    };

    std::vector<Slot> slots;
    for (uint64_t i = 0; i < 16; ++i) {
        slots.push_back({header(VIRTIO_BLK_T_IN, i * 8), writable(4096), writable(1)});
    }
    const auto submit = [&](uint64_t token) {
        const Slot& slot = slots[token];
        memory_.write(slot.target.address, bytes(4096, kUntouched));
        memory_.write(slot.status.address, bytes(1, kUntouched));
        const std::array segments{slot.head, slot.target, slot.status};
        ASSERT_TRUE(queue().try_add(segments, token));
    };
    for (uint64_t token = 0; token < slots.size(); ++token) {
        submit(token);
    }
    queue().publish_and_kick();
    const auto deadline = driver::after(kPatience);
    for (int done = 0; done < 5000;) {
        ASSERT_LT(driver::Clock::now(), deadline);
        // Looks at the index without waiting for a call: the earliest moment there is.
        const auto used = queue().poll_used();
        if (!used) {
            continue;
        }
        ++done;
        const Slot& slot = slots[used->token];
        ASSERT_EQ(status_in(slot.status), VIRTIO_BLK_S_OK);
        ASSERT_EQ(bytes_of(slot.target), bytes(4096, static_cast<int>(used->token) + 1));
        submit(used->token);
        queue().publish_and_kick();
    }
}

// --- 17: wrapping index --------------------------------------------------------------------------

TEST_F(BlkTraps, Trap17KicksAreSeenWhereTheIndexWraps) {
    for (const bool event_idx : {true, false}) {
        run({.queue_size = 128, .event_idx = event_idx});
        const Segment head = header(VIRTIO_BLK_T_GET_ID, 0);
        const Segment id = writable(20);
        const Segment status = writable(1);
        const std::array segments{head, id, status};
        // Batches of 40, of which one lies across 65536, each told by one kick.
        for (uint32_t sent = 0; sent < 70'000; sent += 40) {
            for (int i = 0; i < 40; ++i) {
                ASSERT_TRUE(queue().try_add(segments, 0));
            }
            queue().publish_and_kick();
            ASSERT_TRUE(wait_answers(40)) << "after " << sent;
        }
        TearDown();
    }
}

// --- 18: statuses --------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap18UnsupportedIsWhatIsNotKnownAndAllElseIsAnError) {
    run();
    EXPECT_EQ(status_of_request({header(77, 0), writable(1)}), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_SECURE_ERASE, 0), range(0, 8), writable(1)}),
              VIRTIO_BLK_S_UNSUPP)
        << "was not offered";
    EXPECT_EQ(status_of_request({header(kGetLifetimeType, 0), writable(6), writable(1)}),
              VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(
        status_of_request({header(VIRTIO_BLK_T_WRITE_ZEROES, 0), range(0, 8, 4), writable(1)}),
        VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(write(0, 513, 0x31), VIRTIO_BLK_S_IOERR) << "a length is never unsupported";
    EXPECT_EQ(status_of_request(
                  {header(VIRTIO_BLK_T_WRITE_ZEROES, 0), range(0, UINT32_MAX), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    fault_.set_rule(answers(IoOpcode::kRead, -EOPNOTSUPP));
    std::vector<std::byte> in;
    EXPECT_EQ(read(0, 512, in), VIRTIO_BLK_S_IOERR) << "what the host cannot is an error";
}

// --- 19: ends ------------------------------------------------------------------------------------

class BlkTrapsTeardown : public BlkTraps {
  protected:
    void TearDown() override {
        // Before the worker that it posts to.
        if (releaser_.joinable()) {
            releaser_.join();
        }
        BlkTraps::TearDown();
    }

    /// Begins a read that takes until another thread lets it go, a moment later.
    void begin_slow_read() {
        backing_.fill(0, 512, 0x31);
        fault_.set_rule(holds(IoOpcode::kRead));
        target_ = writable(512);
        status_ = begin({header(VIRTIO_BLK_T_IN, 0), target_});
        ASSERT_TRUE(fault_.wait_held(1));
        releaser_ = std::jthread([this] {
            give_others_a_moment();
            released_.store(true);
            fault_.release();
        });
    }

    std::atomic<bool> released_ = false;
    Segment target_{};
    Segment status_{};
    std::jthread releaser_;
};

TEST_F(BlkTrapsTeardown, Trap19StoppedRingWaitsForWhatItTook) {
    run();
    begin_slow_read();
    const auto base = queue().stop(*frontend_);
    EXPECT_TRUE(released_.load());
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, 1U);
    EXPECT_TRUE(queue().poll_used());
    EXPECT_EQ(status_in(status_), VIRTIO_BLK_S_OK);
    EXPECT_EQ(bytes_of(target_), bytes(512, 0x31));
}

TEST_F(BlkTrapsTeardown, Trap19MemoryIsGivenUpWhenNoRequestUsesIt) {
    run();
    begin_slow_read();
    EXPECT_EQ(frontend_->rem_mem_reg(memory_, memory_.regions().at(0)), driver::Answer::kAccepted);
    EXPECT_TRUE(released_.load());
    EXPECT_EQ(bytes_of(target_), bytes(512, 0x31)) << "it was written into the guest's memory";
}

TEST_F(BlkTrapsTeardown, Trap19ResetWaitsToo) {
    run();
    begin_slow_read();
    EXPECT_EQ(frontend_->reset_device(), driver::Answer::kAccepted);
    EXPECT_TRUE(released_.load());
}

TEST_F(BlkTrapsTeardown, Trap19DisconnectedSessionEndsWhenItsRequestsHave) {
    run();
    begin_slow_read();
    frontend_.reset();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    EXPECT_TRUE(released_.load());
}

}  // namespace
}  // namespace outrigger::testing
