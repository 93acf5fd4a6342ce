// SPDX-License-Identifier: Apache-2.0
/// The packed format: what a well-behaved driver gets.
#include "vhost-user-backend/virtq/packed_virtqueue.h"

#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 5;  // no power of two: the packed format needs none
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kData = 0x4000;
constexpr uint32_t kFreshBase = 0x80008000;
constexpr uint16_t kEnable = 0;
constexpr uint16_t kDisable = 1;
constexpr uint16_t kAtDescriptor = 2;

class PackedVirtqueueTest : public testing::Test {
  protected:
    void create(VirtqueueConfig config, uint32_t base = kFreshBase) {
        auto created = Virtqueue::create(config, VringBase{base}, memory_.snapshot());
        ASSERT_TRUE(created.has_value());
        queue_ = std::move(*created);
    }

    void create() { create(ring_.config()); }

    void create_event_idx() {
        VirtqueueConfig config = ring_.config();
        config.event_idx = true;
        create(config);
    }

    static std::vector<PackedDescriptor> writable(size_t count) {
        return std::vector<PackedDescriptor>(count,
                                             {.address = kData, .length = 4, .flags = kWrite});
    }

    void offer(uint16_t id, size_t descriptors = 1) { ring_.offer(id, writable(descriptors)); }

    void complete_one(uint32_t written = 1) {
        auto chain = queue_->pop();
        ASSERT_TRUE(chain.has_value());
        chain->complete(written);
    }

    GuestMemory memory_{{{0, 0x10000}}};
    PackedRing ring_{memory_, kSize, kRing};
    std::unique_ptr<Virtqueue> queue_;
};

TEST_F(PackedVirtqueueTest, EmptyRingYieldsNothing) {
    create();
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_FALSE(queue_->broken().has_value());
}

/// Whatever is fetched, of an empty ring and of a broken one, too: what is popped is the same.
/// Which lines are fetched nobody sees from here.
TEST_F(PackedVirtqueueTest, FetchingAheadTakesNothing) {
    create();
    queue_->prefetch(1);
    for (uint16_t round = 0; round < 3 * kSize; ++round) {
        const auto id = static_cast<uint16_t>(round % kSize);
        offer(id);
        queue_->prefetch(0xffff);
        auto chain = queue_->pop();
        ASSERT_TRUE(chain.has_value());
        EXPECT_EQ(chain->id(), id);
        chain->prefetch_readable();
        chain->prefetch_writable();
        chain->complete(0);
        EXPECT_FALSE(queue_->has_available());
        (void)queue_->publish();
    }
    queue_->break_ring(RingError::kHeadOutOfRange);
    queue_->prefetch(kSize);
    EXPECT_EQ(queue_->counters().chains_popped.value(), 3U * kSize);
}

TEST_F(PackedVirtqueueTest, PopGivesReadableAndWritableParts) {
    create();
    memory_.write(kData, "header");
    ring_.offer(77,
                {{.address = kData, .length = 6},
                 {.address = kData + 64, .length = 5, .flags = kWrite},
                 {.address = kData + 96, .length = 1, .flags = kWrite}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->id(), 77);
    EXPECT_EQ(chain->readable_bytes(), 6U);
    EXPECT_EQ(chain->writable_bytes(), 6U);
    std::array<std::byte, 6> header;
    ChainReader reader = chain->take_reader();
    EXPECT_EQ(reader.read(header), 6U);
    EXPECT_EQ(std::memcmp(header.data(), "header", 6), 0);
}

/// VIRTIO 1.3, 2.8.6: "the device MUST use only one used descriptor for a list of buffers", and
/// skip as many entries as the chain had.
TEST_F(PackedVirtqueueTest, OneUsedDescriptorAnswersAChain) {
    create();
    offer(9, 3);
    offer(4, 1);
    complete_one(2);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, true));
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 9, .length = 2}));
    EXPECT_FALSE(ring_.is_used(1, true));

    complete_one(1);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(3, true));
    EXPECT_EQ(ring_.used(3), (UsedElement{.id = 4, .length = 1}));
}

/// VIRTIO 1.3, 2.8.5: the length counts only with the WRITE flag.
TEST_F(PackedVirtqueueTest, UsedDescriptorSaysWhetherDataWasWritten) {
    create();
    offer(0);
    offer(1);
    complete_one(4);
    complete_one(0);
    EXPECT_TRUE(queue_->publish());
    EXPECT_NE(ring_.flags_at(0) & kWrite, 0);
    EXPECT_EQ(ring_.flags_at(1) & kWrite, 0);
}

TEST_F(PackedVirtqueueTest, BatchIsHiddenBehindItsFirstDescriptor) {
    create();
    offer(0, 2);
    offer(1, 1);
    offer(2, 1);
    complete_one();
    complete_one();
    complete_one();
    EXPECT_FALSE(ring_.is_used(0, true));
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, true));
    EXPECT_TRUE(ring_.is_used(2, true));
    EXPECT_TRUE(ring_.is_used(3, true));
    EXPECT_EQ(queue_->counters().batches_published.value(), 1U);
}

TEST_F(PackedVirtqueueTest, OddSizeWrapsManyTimes) {
    create();
    for (uint16_t round = 0; round < 4 * kSize; ++round) {
        const uint16_t at = ring_.next();
        const bool wrap = ring_.wrap();
        offer(round, 2);
        complete_one(3);
        EXPECT_TRUE(queue_->publish());
        EXPECT_TRUE(ring_.is_used(at, wrap)) << round;
        EXPECT_EQ(ring_.used(at), (UsedElement{.id = round, .length = 3}));
    }
    EXPECT_FALSE(queue_->broken().has_value());
    EXPECT_EQ(queue_->base().raw, kFreshBase);  // 40 entries are 8 laps
}

TEST_F(PackedVirtqueueTest, DescriptorsThatCanBePoppedAreCounted) {
    create();
    EXPECT_EQ(queue_->available_count(), 0U);
    offer(1, 2);
    EXPECT_EQ(queue_->available_count(), 2U);
    for (int lap = 0; lap < 3; ++lap) {
        complete_one();
        EXPECT_EQ(queue_->available_count(), 0U);
        EXPECT_TRUE(queue_->publish());
        offer(1, 1);
        offer(2, 2);
        EXPECT_EQ(queue_->available_count(), 3U) << lap;
        complete_one();
        EXPECT_EQ(queue_->available_count(), 2U) << lap;
    }
    offer(3, kSize - 3);
    EXPECT_EQ(queue_->available_count(), kSize - 1U);
}

TEST_F(PackedVirtqueueTest, ChainOfTheWholeRingFlipsTheWrapCounter) {
    create();
    offer(1, kSize);
    complete_one();
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, true));
    EXPECT_EQ(queue_->base().raw, 0U);
    EXPECT_FALSE(queue_->has_available());

    offer(2, kSize);
    complete_one();
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, false));
    EXPECT_EQ(queue_->base().raw, kFreshBase);
}

TEST_F(PackedVirtqueueTest, RingOfOneEntry) {
    PackedRing single(memory_, 1, 0x2000);
    create(single.config());
    for (uint16_t round = 0; round < 4; ++round) {
        const bool wrap = single.wrap();
        single.offer(round, writable(1));
        complete_one();
        EXPECT_FALSE(queue_->pop().has_value());
        EXPECT_TRUE(queue_->publish());
        EXPECT_TRUE(single.is_used(0, wrap));
    }
    EXPECT_FALSE(queue_->broken().has_value());
}

TEST_F(PackedVirtqueueTest, FullRingInFlightIsNotMistakenForMore) {
    create();
    for (uint16_t id = 0; id < kSize; ++id) {
        offer(id);
    }
    std::vector<DescriptorChain> chains;
    while (auto chain = queue_->pop()) {
        chains.push_back(std::move(*chain));
    }
    EXPECT_EQ(chains.size(), kSize);
    EXPECT_FALSE(queue_->broken().has_value());
    // Completed in reverse, so that each used descriptor overwrites an entry of another chain.
    while (!chains.empty()) {
        chains.pop_back();
        EXPECT_FALSE(queue_->has_available());
    }
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used(0).id, kSize - 1U);
    EXPECT_EQ(ring_.used(kSize - 1).id, 0U);
}

TEST_F(PackedVirtqueueTest, AnySixteenBitIdIsFine) {
    create();
    offer(0xffff);
    offer(0x8000);
    complete_one();
    complete_one();
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used(0).id, 0xffffU);
    EXPECT_EQ(ring_.used(1).id, 0x8000U);
}

TEST_F(PackedVirtqueueTest, OnlyTheLastDescriptorsIdCounts) {
    create();
    offer(7, 2);
    put<uint16_t>(ring_.entry(0) + 12, 0xdead);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->id(), 7);
}

TEST_F(PackedVirtqueueTest, DroppedChainReturnsWithLengthZero) {
    create();
    offer(3, 2);
    { auto dropped = queue_->pop(); }
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, true));
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 3, .length = 0}));
}

// --- Indirect tables ---------------------------------------------------------------------------

/// VIRTIO 1.3, 2.8.7: in the table only WRITE is valid, other flags and the id are ignored.
TEST_F(PackedVirtqueueTest, IndirectTableIsReadInOrderAndItsOtherFieldsIgnored) {
    create();
    memory_.write(kData, "onetwo");
    write_table<PackedDescriptor>(
        memory_,
        kData + 0x103,  // at any alignment
        {{.address = kData, .length = 3, .id = 9, .flags = 0},
         {.address = kData + 3, .length = 3, .id = 8, .flags = kNext | kIndirect | kUsedBit},
         {.address = kData + 64, .length = 5, .id = 7, .flags = kWrite}});
    ring_.offer(6, {{.address = kData + 0x103, .length = 48, .flags = kIndirect | kWrite}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->id(), 6);
    EXPECT_EQ(chain->readable_bytes(), 6U);
    EXPECT_EQ(chain->writable_bytes(), 5U);
}

TEST_F(PackedVirtqueueTest, IndirectTableMayFollowDirectDescriptors) {
    create();
    write_table<PackedDescriptor>(
        memory_, kData + 0x100, {{.address = kData, .length = 2, .flags = kWrite}});
    ring_.offer(6,
                {{.address = kData, .length = 7},
                 {.address = kData + 0x100, .length = 16, .flags = kIndirect}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 7U);
    EXPECT_EQ(chain->writable_bytes(), 2U);
    chain->complete(0);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(queue_->base().raw, 0x80028002U);
}

// --- Calls -------------------------------------------------------------------------------------

class PackedCallTest : public PackedVirtqueueTest {
  protected:
    /// A first batch of 3 entries, so that the next one begins at index 3 in lap 1.
    void start(bool event_idx) {
        VirtqueueConfig config = ring_.config();
        config.event_idx = event_idx;
        create(config);
        offer(0, 3);
        complete_one();
        ASSERT_TRUE(queue_->publish());
    }

    /// Chains of two entries and one: they cover indices 3, 4 and 0 of the next lap.
    bool publish_batch() {
        offer(1, 2);
        offer(2, 1);
        complete_one();
        complete_one();
        return queue_->publish();
    }
};

TEST_F(PackedCallTest, FirstPublishWantsACallWhateverTheDriverSays) {
    create();
    ring_.set_driver_event(kDisable, 0, false);
    offer(0);
    complete_one();
    EXPECT_TRUE(queue_->publish());
    EXPECT_FALSE(queue_->publish());
}

TEST_F(PackedCallTest, DisabledMeansNoCall) {
    start(true);
    ring_.set_driver_event(kDisable, 3, true);
    EXPECT_FALSE(publish_batch());
}

TEST_F(PackedCallTest, EnabledMeansCall) {
    start(true);
    ring_.set_driver_event(kEnable, 0, false);
    EXPECT_TRUE(publish_batch());
}

TEST_F(PackedCallTest, CallWhenTheBatchBeginsAtTheEvent) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 3, true);
    EXPECT_TRUE(publish_batch());
}

TEST_F(PackedCallTest, CallWhenTheEventIsWithinAChain) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 4, true);
    EXPECT_TRUE(publish_batch());
}

TEST_F(PackedCallTest, CallWhenTheEventIsInTheNextLap) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 0, false);
    EXPECT_TRUE(publish_batch());
}

TEST_F(PackedCallTest, NoCallBehindTheBatch) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 1, false);
    EXPECT_FALSE(publish_batch());
}

TEST_F(PackedCallTest, NoCallForTheSameIndexOfTheLapBefore) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 0, true);
    EXPECT_FALSE(publish_batch());
}

TEST_F(PackedCallTest, NoCallBeforeTheBatch) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 2, true);
    EXPECT_FALSE(publish_batch());
}

TEST_F(PackedCallTest, ReservedFlagsAndDescriptorModeWithoutEventIndexMeanCall) {
    start(false);
    ring_.set_driver_event(kAtDescriptor, 2, true);
    EXPECT_TRUE(publish_batch());
    ring_.set_driver_event(3, 2, true);
    EXPECT_TRUE(publish_batch());
}

TEST_F(PackedCallTest, BatchOfTheWholeRingMeetsEveryEvent) {
    start(true);
    ring_.set_driver_event(kAtDescriptor, 2, false);  // the last entry of the batch below
    offer(1, kSize);
    complete_one();
    EXPECT_TRUE(queue_->publish());
}

// --- Kicks -------------------------------------------------------------------------------------

TEST_F(PackedVirtqueueTest, KicksAreSuppressedAndEnabled) {
    create();
    queue_->suppress_kicks();
    EXPECT_EQ(ring_.device_event_flags(), kDisable);
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_EQ(ring_.device_event_flags(), kEnable);
}

TEST_F(PackedVirtqueueTest, EnableKicksAsksForTheNextDescriptor) {
    create_event_idx();
    offer(0, 4);
    complete_one();
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_EQ(ring_.device_event_flags(), kAtDescriptor);
    EXPECT_EQ(ring_.device_event_position(), 0x8004);

    EXPECT_TRUE(queue_->publish());
    offer(0, 2);
    complete_one();
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_EQ(ring_.device_event_position(), 0x0001);
}

TEST_F(PackedVirtqueueTest, EnableKicksSeesWorkThatCameMeanwhile) {
    create_event_idx();
    queue_->suppress_kicks();
    offer(0);
    EXPECT_TRUE(queue_->enable_kicks());
}

}  // namespace
}  // namespace outrigger::test
