// SPDX-License-Identifier: Apache-2.0
/// VIRTIO_F_IN_ORDER: chains become used in the order in which they were made available, whatever
/// order the device answers them in. VIRTIO 1.3, 2.7.9 and 2.8.9.
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 4;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kDataRegion = 0x100000;
constexpr uint32_t kFreshPackedBase = 0x80008000;

class InOrderTest : public testing::Test {
  protected:
    void create(VirtqueueConfig config, uint32_t base) {
        config.in_order = true;
        auto created = Virtqueue::create(config, VringBase{base}, memory_.snapshot(1));
        ASSERT_TRUE(created.has_value());
        queue_ = std::move(*created);
    }

    void pop(size_t count) {
        for (size_t i = 0; i < count; ++i) {
            auto chain = queue_->pop();
            ASSERT_TRUE(chain.has_value());
            chains_.push_back(std::move(*chain));
        }
    }

    GuestMemory memory_{{{0, 0x10000}, {kDataRegion, 0x10000}}};
    std::unique_ptr<Virtqueue> queue_;
    std::vector<DescriptorChain> chains_;
};

class SplitInOrderTest : public InOrderTest {
  protected:
    void SetUp() override { create(ring_.config(), 0); }

    void offer(uint16_t head) {
        ring_.set_descriptor(head, {.address = kDataRegion, .length = 8, .flags = kWrite});
        ring_.offer(head);
    }

    SplitRing ring_{memory_, kSize, kRing};
};

TEST_F(SplitInOrderTest, AChainThatIsAnsweredEarlyWaitsForTheOneBefore) {
    offer(2);
    offer(0);
    pop(2);
    chains_[1].complete(5);
    EXPECT_FALSE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 0);
    EXPECT_EQ(queue_->in_flight(), 2U);
    EXPECT_EQ(queue_->counters().completions_held.value(), 1U);
    chains_[0].complete(3);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 2);
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 2, .length = 3}));
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 0, .length = 5}));
    EXPECT_EQ(queue_->in_flight(), 0U);
}

TEST_F(SplitInOrderTest, OnlyWhatIsCompleteFromTheFrontBecomesUsed) {
    for (const uint16_t head : std::array<uint16_t, 4>{0, 1, 2, 3}) {
        offer(head);
    }
    pop(4);
    chains_[1].complete(1);
    chains_[3].complete(3);
    chains_[0].complete(0);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 2);
    chains_[2].complete(2);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 4);
    EXPECT_EQ(ring_.used(3), (UsedElement{.id = 3, .length = 3}));
}

TEST_F(SplitInOrderTest, AHeadWhoseAnswerWaitsIsStillInFlight) {
    offer(0);
    offer(1);
    pop(2);
    chains_[1].complete(1);
    offer(1);
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_EQ(queue_->broken(), RingError::kHeadInFlight);
    chains_[0].complete(1);
    (void)queue_->publish();
    // What a broken ring took is given back all the same, in order.
    EXPECT_EQ(ring_.used_index(), 2);
    EXPECT_EQ(ring_.used(0).id, 0U);
}

TEST_F(SplitInOrderTest, AChainThatTheDeviceDropsLetsTheOthersPass) {
    offer(0);
    offer(1);
    pop(2);
    chains_[1].complete(4);
    chains_.clear();
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 0, .length = 0}));
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 1, .length = 4}));
}

TEST_F(SplitInOrderTest, TheOrderHoldsThroughManyLapsOfAFullRing) {
    for (uint16_t lap = 0; lap < 3 * kSize; ++lap) {
        for (const uint16_t head : std::array<uint16_t, 4>{3, 1, 0, 2}) {
            offer(head);
        }
        pop(kSize);
        for (size_t i = kSize; i-- > 0;) {
            chains_[i].complete(static_cast<uint32_t>(i));
        }
        chains_.clear();
        EXPECT_TRUE(queue_->publish());
        const auto first = static_cast<uint16_t>(lap * kSize);
        EXPECT_EQ(ring_.used(first), (UsedElement{.id = 3, .length = 0}));
        EXPECT_EQ(ring_.used(static_cast<uint16_t>(first + 1)),
                  (UsedElement{.id = 1, .length = 1}));
        EXPECT_EQ(ring_.used(static_cast<uint16_t>(first + 2)),
                  (UsedElement{.id = 0, .length = 2}));
        EXPECT_EQ(ring_.used(static_cast<uint16_t>(first + 3)),
                  (UsedElement{.id = 2, .length = 3}));
    }
    EXPECT_EQ(queue_->base().raw, 3U * kSize * kSize);
}

TEST_F(SplitInOrderTest, NoCallIsWantedForWhatWaits) {
    VirtqueueConfig config = ring_.config();
    config.event_idx = true;
    create(config, 0);
    ring_.set_used_event(1);  // a call when the second one is used
    offer(0);
    pop(1);
    chains_[0].complete(0);
    EXPECT_TRUE(queue_->publish());  // the first batch of a ring always calls
    offer(1);
    offer(2);
    offer(3);
    pop(3);
    chains_[2].complete(0);
    chains_[3].complete(0);
    EXPECT_FALSE(queue_->publish());
    chains_[1].complete(0);
    EXPECT_TRUE(queue_->publish());
    EXPECT_FALSE(queue_->publish());
}

TEST_F(SplitInOrderTest, AWaitingAnswerPinsNoMemoryOfItsOwn) {
    offer(0);
    pop(1);
    queue_->adopt_memory(memory_.snapshot(2));
    offer(1);
    pop(1);
    chains_[1].complete(0);
    EXPECT_FALSE(queue_->old_memory_released());
    chains_[0].complete(0);
    EXPECT_TRUE(queue_->old_memory_released());
}

TEST_F(SplitInOrderTest, WaitingAnswersReachTheDriverWhenTheRingsMemoryGoes) {
    offer(0);
    offer(1);
    pop(2);
    chains_[1].complete(2);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    EXPECT_FALSE(queue_->old_memory_released());
    chains_[0].complete(1);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(queue_->old_memory_released());
    EXPECT_EQ(ring_.used_index(), 2);
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 1, .length = 2}));
}

class PackedInOrderTest : public InOrderTest {
  protected:
    void SetUp() override { create(ring_.config(), kFreshPackedBase); }

    void offer(uint16_t id, size_t descriptors = 1) {
        ring_.offer(id,
                    std::vector<PackedDescriptor>(
                        descriptors, {.address = kDataRegion, .length = 8, .flags = kWrite}));
    }

    PackedRing ring_{memory_, kSize, kRing};
};

TEST_F(PackedInOrderTest, EachUsedDescriptorLiesWhereItsChainBegan) {
    offer(50);
    offer(60, 2);
    offer(70);
    pop(3);
    chains_[2].complete(7);
    chains_[1].complete(6);
    EXPECT_FALSE(queue_->publish());
    EXPECT_FALSE(ring_.is_used(0, true));
    chains_[0].complete(5);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, true));
    EXPECT_TRUE(ring_.is_used(1, true));
    EXPECT_TRUE(ring_.is_used(3, true));
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 50, .length = 5}));
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 60, .length = 6}));
    EXPECT_EQ(ring_.used(3), (UsedElement{.id = 70, .length = 7}));
    EXPECT_EQ(queue_->base().raw, 0U);  // both positions wrapped
}

TEST_F(PackedInOrderTest, TheOrderHoldsAcrossTheWrap) {
    offer(1, 3);
    pop(1);
    chains_[0].complete(1);
    EXPECT_TRUE(queue_->publish());
    offer(2, 2);  // entries 3 and 0
    offer(3);     // entry 1
    pop(2);
    chains_[2].complete(3);
    EXPECT_FALSE(queue_->publish());
    chains_[1].complete(2);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(3, true));
    EXPECT_TRUE(ring_.is_used(1, false));
    EXPECT_EQ(ring_.used(3), (UsedElement{.id = 2, .length = 2}));
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 3, .length = 3}));
}

TEST_F(PackedInOrderTest, AnIdWhoseAnswerWaitsIsStillInFlight) {
    offer(1);
    offer(2);
    pop(2);
    chains_[1].complete(0);
    offer(2);
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_EQ(queue_->broken(), RingError::kHeadInFlight);
    chains_[0].complete(0);
}

}  // namespace
}  // namespace outrigger::test
