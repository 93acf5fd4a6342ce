// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/packed_ring.h"

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
constexpr auto kOne = std::span(kReadThenWrite).first(1);

class PackedRingTest : public ::testing::Test {
  protected:
    void make(const RingOptions& options) {
        memory_ = GuestMemory::create(4 << 20).value();
        ring_ = std::make_unique<PackedRing>(PackedRing::create(memory_, options).value());
        device_ = std::make_unique<reference::PackedDevice>(
            memory_, ring_->addresses(), options.size, options.event_idx);
    }

    // Adds, publishes, serves and completes `count` requests of one segment, one by one.
    void run_singly(uint16_t count) {
        for (uint16_t i = 0; i < count; ++i) {
            ASSERT_TRUE(ring_->try_add(kOne, i));
            ring_->publish();
            (void)ring_->kick_needed();
            device_->use(device_->pop().value(), 0);
            (void)device_->call_needed();
            ASSERT_EQ(ring_->poll_used().value().token, i);
        }
    }

    GuestMemory memory_;
    std::unique_ptr<PackedRing> ring_;
    std::unique_ptr<reference::PackedDevice> device_;
};

void expect_segments(const reference::Request& request) {
    ASSERT_EQ(request.segments.size(), kReadThenWrite.size());
    for (size_t i = 0; i < kReadThenWrite.size(); ++i) {
        EXPECT_EQ(request.segments[i].address, kReadThenWrite[i].address);
        EXPECT_EQ(request.segments[i].length, kReadThenWrite[i].length);
        EXPECT_EQ(request.segments[i].device_writable, kReadThenWrite[i].device_writable);
    }
}

TEST_F(PackedRingTest, DeviceSeesNoChainOfABatchBeforePublish) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 2));
    EXPECT_FALSE(device_->pop());
    ring_->publish();
    EXPECT_TRUE(device_->pop());
    EXPECT_TRUE(device_->pop());
}

TEST_F(PackedRingTest, DirectChainArrivesWhole) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 7));
    ring_->publish();
    expect_segments(device_->pop().value());
}

TEST_F(PackedRingTest, IndirectChainArrivesWholeAndTakesOneSlot) {
    make({.size = 8, .indirect_segments_max = 4});
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 7, ChainLayout::kIndirect));
    EXPECT_EQ(ring_->free_descriptors(), 7);
    ring_->publish();
    expect_segments(device_->pop().value());
}

TEST_F(PackedRingTest, AChainOfTheWholeRingTogglesBothWrapCounters) {
    make({.size = 3});
    for (uint64_t lap = 0; lap < 4; ++lap) {
        ASSERT_TRUE(ring_->try_add(kReadThenWrite, lap));
        EXPECT_FALSE(ring_->try_add(kOne, 99));
        ring_->publish();
        device_->use(device_->pop().value(), 5);
        const auto completion = ring_->poll_used().value();
        EXPECT_EQ(completion.token, lap);
        EXPECT_EQ(completion.length, 5U);
    }
    EXPECT_EQ(ring_->base(), 0x8000'8000U);
}

TEST_F(PackedRingTest, ADeviceThatHasSeenNothingStartsAtTheOldestRequest) {
    make({.size = 3});
    run_singly(2);
    ASSERT_TRUE(ring_->try_add(std::span(kReadThenWrite).first(2), 7));
    ring_->publish();
    EXPECT_EQ(ring_->start_base(), 0x8002'8002U);
    EXPECT_EQ(ring_->base(), 0x8002'0001U);
}

TEST_F(PackedRingTest, ARingOfOneDescriptorWorks) {
    make({.size = 1});
    run_singly(5);
    EXPECT_EQ(ring_->base(), 0U);
}

TEST_F(PackedRingTest, CompletionsOutOfOrderKeepTheirTokensAcrossTheWrap) {
    make({.size = 5});
    run_singly(3);
    ASSERT_TRUE(ring_->try_add(kReadThenWrite, 1));
    ASSERT_TRUE(ring_->try_add(kOne, 2));
    ring_->publish();
    const auto first = device_->pop().value();
    const auto second = device_->pop().value();
    device_->use(second, 0);
    device_->use(first, 9);
    EXPECT_EQ(ring_->poll_used().value().token, 2U);
    EXPECT_EQ(ring_->poll_used().value().token, 1U);
    EXPECT_EQ(ring_->free_descriptors(), 5);
}

// 2.8.13: the length of a used descriptor without WRITE is not to be read.
TEST_F(PackedRingTest, LengthWithoutTheWriteFlagIsIgnored) {
    make({.size = 4});
    ASSERT_TRUE(ring_->try_add(kOne, 1));
    ring_->publish();
    const auto request = device_->pop().value();
    ring_->write_descriptor(
        0, {.address = 0, .length = 77, .id = request.id, .flags = kPackedAvailable | kPackedUsed});
    EXPECT_EQ(ring_->poll_used().value().length, 0U);
}

TEST_F(PackedRingTest, KickFollowsTheDeviceEventFlags) {
    make({.size = 8});
    ASSERT_TRUE(ring_->try_add(kOne, 1));
    ring_->publish();
    EXPECT_TRUE(ring_->kick_needed());
    device_->want_kicks(false);
    ASSERT_TRUE(ring_->try_add(kOne, 2));
    ring_->publish();
    EXPECT_FALSE(ring_->kick_needed());
}

TEST_F(PackedRingTest, KickWhenABatchPassesTheWishedSlotAlsoBehindTheWrap) {
    make({.size = 5, .event_idx = true});
    for (uint16_t start = 0; start < 10; ++start) {
        device_->want_kicks(true);
        ASSERT_TRUE(ring_->try_add(kOne, 1));
        ASSERT_TRUE(ring_->try_add(kOne, 2));
        ring_->publish();
        EXPECT_TRUE(ring_->kick_needed()) << start;
        ASSERT_TRUE(ring_->try_add(kOne, 3));
        ring_->publish();
        EXPECT_FALSE(ring_->kick_needed()) << start;
        for (int i = 0; i < 3; ++i) {
            device_->use(device_->pop().value(), 0);
            ASSERT_TRUE(ring_->poll_used());
        }
        // One more, so that every start position of the ring comes up.
        run_singly(1);
    }
}

TEST_F(PackedRingTest, SuppressedCallsAreNotNeeded) {
    make({.size = 8, .event_idx = true});
    ring_->suppress_calls();
    ASSERT_TRUE(ring_->try_add(kOne, 1));
    ring_->publish();
    device_->use(device_->pop().value(), 0);
    EXPECT_FALSE(device_->call_needed());
}

TEST_F(PackedRingTest, EnablingCallsTellsOfACompletionThatCameBefore) {
    for (const bool event_idx : {false, true}) {
        make({.size = 3, .event_idx = event_idx});
        run_singly(2);
        ASSERT_TRUE(ring_->try_add(kOne, 1));
        ring_->publish();
        EXPECT_FALSE(ring_->enable_calls());
        device_->use(device_->pop().value(), 0);
        EXPECT_TRUE(device_->call_needed());
        EXPECT_TRUE(ring_->enable_calls());
    }
}

TEST_F(PackedRingTest, UsedIdBeyondTheRingIsADeviceFault) {
    make({.size = 4});
    ASSERT_TRUE(ring_->try_add(kOne, 1));
    ring_->publish();
    auto request = device_->pop().value();
    request.id = 4;
    device_->use(request, 0);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->fault(), DeviceFault::kUsedIdOutOfRange);
}

TEST_F(PackedRingTest, UsedIdThatIsNotInFlightIsADeviceFault) {
    make({.size = 4});
    ASSERT_TRUE(ring_->try_add(kOne, 1));
    ring_->publish();
    auto request = device_->pop().value();
    request.id = static_cast<uint16_t>((request.id + 1) % 4);
    device_->use(request, 0);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->fault(), DeviceFault::kUsedIdNotInFlight);
}

TEST_F(PackedRingTest, HandWrittenDescriptorsReachTheDevice) {
    make({.size = 4});
    const uint16_t flags = ring_->available_flags();
    ring_->write_descriptor(1, {.address = 2, .length = 3, .id = 0xffff, .flags = flags});
    ring_->write_descriptor(0,
                            {.address = 1,
                             .length = 2,
                             .id = 0,
                             .flags = static_cast<uint16_t>(flags | kDescriptorNext)});
    ring_->skip_slots(2);
    const auto request = device_->pop().value();
    EXPECT_EQ(request.id, 0xffff);
    EXPECT_EQ(request.segments.size(), 2U);
    device_->use(request, 0);
    EXPECT_EQ(ring_->poll_used_descriptor(2).value().id, 0xffff);
    EXPECT_EQ(ring_->next_slot(), 2);
}

TEST_F(PackedRingTest, EveryRequestOfAManyThreadedRunCompletes) {
    make({.size = 13, .event_idx = true});
    constexpr uint64_t kRequests = 20000;
    std::thread device([this] {
        for (uint64_t served = 0; served < kRequests;) {
            if (const auto request = device_->pop()) {
                device_->use(*request, static_cast<uint32_t>(request->segments.size()));
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
