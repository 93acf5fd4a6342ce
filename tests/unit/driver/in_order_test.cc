// SPDX-License-Identifier: Apache-2.0
// The driver's rings with IN_ORDER: a device may use each chain by itself or tell of a batch by its
// last one (VIRTIO 1.3, 2.7.9 and 2.8.9), and the driver takes descriptors round and round (2.7.5).
#include <array>
#include <memory>

#include <gtest/gtest.h>

#include "tests/unit/driver/reference_device.h"
#include "tools/driver/packed_ring.h"
#include "tools/driver/split_ring.h"

namespace outrigger::driver {
namespace {

constexpr std::array kReadThenWrite = {
    Segment{.address = GuestAddr{0x11000}, .length = 16, .device_writable = false},
    Segment{.address = GuestAddr{0x12000}, .length = 512, .device_writable = true},
};
constexpr uint32_t kWritable = 512;

template <class Ring, class Device>
class InOrder : public ::testing::Test {
  protected:
    void make(const RingOptions& options) {
        memory_ = GuestMemory::create(4 << 20).value();
        ring_ = std::make_unique<Ring>(Ring::create(memory_, options).value());
        device_ = std::make_unique<Device>(memory_, ring_->addresses(), options.size, false);
    }

    void add(uint64_t first_token, uint64_t count) {
        for (uint64_t i = 0; i < count; ++i) {
            ASSERT_TRUE(ring_->try_add(kReadThenWrite, first_token + i));
        }
        ring_->publish();
    }

    void expect_completion(uint64_t token, uint32_t length) {
        const auto completion = ring_->poll_used();
        ASSERT_TRUE(completion) << token;
        EXPECT_EQ(completion->token, token);
        EXPECT_EQ(completion->length, length);
    }

    GuestMemory memory_;
    std::unique_ptr<Ring> ring_;
    std::unique_ptr<Device> device_;
};

using SplitInOrder = InOrder<SplitRing, reference::SplitDevice>;
using PackedInOrder = InOrder<PackedRing, reference::PackedDevice>;

TEST_F(SplitInOrder, OneElementForEachChainKeepsAllLengths) {
    make({.size = 8, .in_order = true});
    add(1, 3);
    for (const uint32_t length : {10U, 20U, 30U}) {
        device_->use(device_->pop().value().id, length);
    }
    expect_completion(1, 10);
    expect_completion(2, 20);
    expect_completion(3, 30);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->free_descriptors(), 8);
}

TEST_F(SplitInOrder, OneElementForABatchCompletesAllOfIt) {
    make({.size = 8, .in_order = true});
    for (uint64_t round = 0; round < 6; ++round) {
        add(round, 3);
        (void)device_->pop();
        (void)device_->pop();
        device_->use_batch(device_->pop().value().id, 7, 3);
        expect_completion(round, kWritable);
        EXPECT_TRUE(ring_->enable_calls());  // the rest of the batch is there already
        expect_completion(round + 1, kWritable);
        expect_completion(round + 2, 7);
        EXPECT_FALSE(ring_->enable_calls());
        EXPECT_FALSE(ring_->poll_used());
    }
    EXPECT_EQ(ring_->fault(), DeviceFault::kNone);
    EXPECT_EQ(ring_->start_base(), 18U);
}

TEST_F(SplitInOrder, AChainUsedBeforeAnEarlierOneIsAFault) {
    make({.size = 8, .in_order = true});
    add(1, 2);
    (void)device_->pop();
    device_->use(device_->pop().value().id, 1);
    EXPECT_FALSE(ring_->poll_used());
    EXPECT_EQ(ring_->fault(), DeviceFault::kUsedOutOfOrder);
}

// "The driver MUST set next to 0 for the last descriptor in the table and to x + 1 for the rest."
TEST_F(SplitInOrder, DescriptorsAreTakenRoundAndRound) {
    make({.size = 4, .in_order = true});
    for (uint16_t round = 0; round < 8; ++round) {
        add(round, 1);
        const auto request = device_->pop().value();
        EXPECT_EQ(request.id, round % 2 * 2);
        EXPECT_EQ(ring_->read_descriptor(request.id).next, request.id + 1);
        device_->use(request.id, 0);
        expect_completion(round, 0);
    }
}

TEST_F(PackedInOrder, OneUsedDescriptorForEachChainKeepsAllLengths) {
    make({.size = 7, .in_order = true});
    for (uint64_t round = 0; round < 10; ++round) {
        add(round, 3);
        for (const uint32_t length : {10U, 20U, 30U}) {
            device_->use(device_->pop().value(), length);
        }
        expect_completion(round, 10);
        expect_completion(round + 1, 20);
        expect_completion(round + 2, 30);
        EXPECT_FALSE(ring_->poll_used());
    }
    EXPECT_EQ(ring_->free_descriptors(), 7);
}

TEST_F(PackedInOrder, OneUsedDescriptorForABatchCompletesAllOfIt) {
    make({.size = 7, .in_order = true});
    for (uint64_t round = 0; round < 10; ++round) {
        add(round, 3);
        const std::array batch = {
            device_->pop().value(), device_->pop().value(), device_->pop().value()};
        device_->use_batch(batch, 7);
        expect_completion(round, kWritable);
        EXPECT_TRUE(ring_->enable_calls());
        expect_completion(round + 1, kWritable);
        expect_completion(round + 2, 7);
        EXPECT_FALSE(ring_->enable_calls());
        EXPECT_FALSE(ring_->poll_used());
    }
    EXPECT_EQ(ring_->fault(), DeviceFault::kNone);
}

}  // namespace
}  // namespace outrigger::driver
