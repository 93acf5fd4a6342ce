// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/split_ring.h"

#include <array>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include "tests/unit/driver/reference_device.h"

namespace outrigger::driver {
namespace {

constexpr std::array kReadThenWrite = {
    Segment{.address = GuestAddr{0x11000}, .length = 16, .device_writable = false},
    Segment{.address = GuestAddr{0x12000}, .length = 512, .device_writable = true},
    Segment{.address = GuestAddr{0x13000}, .length = 1, .device_writable = true},
};

class SplitRingTest : public ::testing::Test {
  protected:
    void make(const RingOptions& options) {
        memory_ = GuestMemory::create(4 << 20).value();
        ring_ = std::make_unique<SplitRing>(SplitRing::create(memory_, options).value());
        device_ = std::make_unique<reference::SplitDevice>(
            memory_, ring_->addresses(), options.size, options.event_idx);
    }

    GuestMemory memory_;
    std::unique_ptr<SplitRing> ring_;
    std::unique_ptr<reference::SplitDevice> device_;
};

void expect_segments(const reference::Request& request) {
    ASSERT_EQ(request.segments.size(), kReadThenWrite.size());
    for (size_t i = 0; i < kReadThenWrite.size(); ++i) {
        EXPECT_EQ(request.segments[i].address, kReadThenWrite[i].address);
        EXPECT_EQ(request.segments[i].length, kReadThenWrite[i].length);
        EXPECT_EQ(request.segments[i].device_writable, kReadThenWrite[i].device_writable);
    }
}

TEST_F(SplitRingTest, DeviceSeesNothingBeforePublish) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 7));
    EXPECT_FALSE(device_->pop());
    ring_->publish();
    EXPECT_TRUE(device_->pop());
}

TEST_F(SplitRingTest, DirectChainArrivesWhole) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 7));
    ring_->publish();
    expect_segments(device_->pop().value());
}

TEST_F(SplitRingTest, IndirectChainArrivesWholeAndTakesOneDescriptor) {
    make({.size = 8, .indirect_segments_max = 4});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 7, ChainLayout::kIndirect));
    EXPECT_EQ(ring_->free_descriptors(), 7);
    ring_->publish();
    expect_segments(device_->pop().value());
}

TEST_F(SplitRingTest, MixedChainIsDirectFirstAndThenATable) {
    make({.size = 8, .indirect_segments_max = 4});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 7, ChainLayout::kMixed));
    EXPECT_EQ(ring_->free_descriptors(), 6);
    ring_->publish();
    const auto request = device_->pop().value();
    EXPECT_EQ(ring_->read_descriptor(request.id).flags, kDescriptorNext);
    expect_segments(request);
}

TEST_F(SplitRingTest, AddFailsWhenTooFewDescriptorsAreFree) {
    make({.size = 4});
    EXPECT_TRUE(ring_->try_add(kReadThenWrite, 1));
    EXPECT_FALSE(ring_->try_add(kReadThenWrite, 2));
    EXPECT_EQ(ring_->free_descriptors(), 1);
    EXPECT_EQ(ring_->in_flight(), 1U);
}

TEST_F(SplitRingTest, CompletionsOutOfOrderKeepTheirTokens) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(1), 1));
    ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(2), 2));
    ring_->publish();
    const auto first = device_->pop().value();
    const auto second = device_->pop().value();
    device_->use(second.id, 20);
    device_->use(first.id, 10);
    const auto completed_first = ring_->poll_used().value();
    const auto completed_second = ring_->poll_used().value();
    EXPECT_EQ(completed_first.token, 2U);
    EXPECT_EQ(completed_first.length, 20U);
    EXPECT_EQ(completed_second.token, 1U);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->free_descriptors(), 8);
}

TEST_F(SplitRingTest, IndicesWrapAt65536) {
    make({.size = 4});
    ring_->start_at(65534);
    device_->start_at(65534);
    for (uint64_t token = 0; token < 8; ++token) {
        ASSERT_TRUE(ring_->try_add(kReadThenWrite, token));
        ring_->publish();
        device_->use(device_->pop().value().id, 1);
        EXPECT_EQ(ring_->poll_used().value().token, token);
    }
    EXPECT_EQ(ring_->base(), 6U);
}

// 2.7.10: without EVENT_IDX the device's flag decides.
TEST_F(SplitRingTest, KickFollowsTheFlag) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    ring_->publish();
    EXPECT_TRUE(ring_->kick_needed());
    device_->want_kicks(false);
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 2));
    ring_->publish();
    EXPECT_FALSE(ring_->kick_needed());
}

TEST_F(SplitRingTest, NoKickWhenNothingWasPublished) {
    make({.size = 8});
    EXPECT_FALSE(ring_->kick_needed());
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    EXPECT_FALSE(ring_->kick_needed());
}

// 2.7.10: a batch needs a kick when any of its entries passes avail_event.
TEST_F(SplitRingTest, KickWhenABatchPassesTheEvent) {
    make({.size = 8, .event_idx = true});
    device_->want_kicks(true);
    ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(1), 1));
    ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(1), 2));
    ring_->publish();
    EXPECT_TRUE(ring_->kick_needed());
    ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(1), 3));
    ring_->publish();
    EXPECT_FALSE(ring_->kick_needed());
}

TEST_F(SplitRingTest, SuppressedCallsAreNotNeeded) {
    for (const bool event_idx : {false, true}) {
        make({.size = 8, .event_idx = event_idx});
        ring_->suppress_calls();
        ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
        ring_->publish();
        device_->use(device_->pop().value().id, 1);
        EXPECT_FALSE(device_->call_needed());
    }
}

TEST_F(SplitRingTest, EnablingCallsTellsOfACompletionThatCameBefore) {
    for (const bool event_idx : {false, true}) {
        make({.size = 8, .event_idx = event_idx});
        ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(1), 1));
        ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(1), 2));
        ring_->publish();
        EXPECT_FALSE(ring_->enable_calls());
        device_->use(device_->pop().value().id, 1);
        EXPECT_TRUE(device_->call_needed());
        EXPECT_TRUE(ring_->enable_calls());
    }
}

TEST_F(SplitRingTest, UsedIdBeyondTheRingIsADeviceFault) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    ring_->publish();
    device_->use(8, 1);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->fault(), DeviceFault::kUsedIdOutOfRange);
}

TEST_F(SplitRingTest, UsedIdThatIsNoHeadIsADeviceFault) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    ring_->publish();
    device_->use(device_->pop().value().id + 1U, 1);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->fault(), DeviceFault::kUsedIdNotInFlight);
}

TEST_F(SplitRingTest, UsedIndexAheadOfRequestsIsADeviceFault) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    ring_->publish();
    device_->set_used_index(2);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->fault(), DeviceFault::kUsedIndexJump);
}

TEST_F(SplitRingTest, HandWrittenFieldsReachTheDevice) {
    make({.size = 8});
    ring_->write_descriptor(
        5, {.address = 0xabcd, .length = 0xffff'ffff, .flags = kDescriptorWrite, .next = 9});
    ring_->publish_head(5);
    const auto request = device_->pop().value();
    EXPECT_EQ(request.id, 5);
    EXPECT_EQ(request.segments[0].address, GuestAddr{0xabcd});
    EXPECT_EQ(request.segments[0].length, 0xffff'ffffU);
    device_->use(5, 3);
    EXPECT_EQ(ring_->poll_used_element().value().id, 5U);
}

// Two threads, sleeps replaced by spins on the armed flags: no completion is lost.
TEST_F(SplitRingTest, EveryRequestOfAManyThreadedRunCompletes) {
    make({.size = 16, .event_idx = true});
    constexpr uint64_t kRequests = 20000;
    std::thread device([this] {
        for (uint64_t served = 0; served < kRequests;) {
            if (const auto request = device_->pop()) {
                device_->use(request->id, static_cast<uint32_t>(request->segments.size()));
                ++served;
            } else {
                std::this_thread::yield();
            }
        }
    });
    uint64_t added = 0;
    uint64_t completed = 0;
    uint64_t token_sum = 0;
    while (completed < kRequests) {
        while (added < kRequests && ring_->try_add(kReadThenWrite, added)) {
            ++added;
        }
        ring_->publish();
        const auto completion = ring_->poll_used();
        if (!completion) {
            ASSERT_EQ(ring_->fault(), DeviceFault::kNone);
            std::this_thread::yield();
            continue;
        }
        EXPECT_EQ(completion->length, 3U);
        token_sum += completion->token;
        ++completed;
    }
    device.join();
    EXPECT_EQ(token_sum, kRequests * (kRequests - 1) / 2);
}

}  // namespace
}  // namespace outrigger::driver
