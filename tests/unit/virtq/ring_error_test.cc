// SPDX-License-Identifier: Apache-2.0
/// What a hostile driver can do with descriptors. Each case breaks the ring with its own reason,
/// takes nothing from the ring, and leaves what was popped before to complete.
#include "vhost-user-backend/virtq/ring_error.h"

#include <set>
#include <string_view>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 8;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kData = 0x4000;
constexpr uint64_t kTable = 0x8000;
constexpr uint64_t kMore = 0x20000;               // a second region right behind the first
constexpr uint64_t kMemoryEnd = kMore + 0x10000;  // then a hole
constexpr uint64_t kHuge = 0x100000000;           // a sparse region of 2 GiB
constexpr uint64_t kHugeBytes = 0x80000000;

class RingErrorTest : public testing::Test {
  protected:
    void create(const VirtqueueConfig& config, uint32_t base) {
        auto created = Virtqueue::create(config, VringBase{base}, memory_.snapshot());
        ASSERT_TRUE(created.has_value());
        queue_ = std::move(*created);
    }

    /// Pops what the test offered and expects the ring to break, for good.
    void expect_broken(RingError error) {
        const uint32_t before = queue_->base().raw;
        EXPECT_TRUE(queue_->has_available());
        EXPECT_FALSE(queue_->pop().has_value());
        ASSERT_TRUE(queue_->broken().has_value());
        EXPECT_EQ(*queue_->broken(), error) << describe(*queue_->broken());
        EXPECT_EQ(queue_->base().raw, before);
        EXPECT_FALSE(queue_->pop().has_value());
        EXPECT_FALSE(queue_->has_available());
        EXPECT_FALSE(queue_->enable_kicks());
        EXPECT_EQ(queue_->counters().chains_popped.value(),
                  queue_->counters().chains_completed.value() + queue_->in_flight());
    }

    GuestMemory memory_{{{0, kMore}, {kMore, kMemoryEnd - kMore}, {kHuge, kHugeBytes}}};
    std::unique_ptr<Virtqueue> queue_;
};

TEST(RingErrorNames, AreAllDifferent) {
    std::set<std::string_view> names;
    for (size_t i = 0; i < kRingErrorCount; ++i) {
        names.insert(describe(static_cast<RingError>(i)));
    }
    EXPECT_EQ(names.size(), kRingErrorCount);
    EXPECT_FALSE(names.contains(describe(static_cast<RingError>(kRingErrorCount))));
}

// --- Split -------------------------------------------------------------------------------------

class SplitErrorTest : public RingErrorTest {
  protected:
    void SetUp() override { create(ring_.config(), 0); }

    void expect_chain_breaks(const std::vector<SplitDescriptor>& table, RingError error) {
        for (size_t i = 0; i < table.size(); ++i) {
            ring_.set_descriptor(static_cast<uint16_t>(i), table[i]);
        }
        ring_.offer(0);
        expect_broken(error);
    }

    /// Offers one INDIRECT descriptor that refers to `entries`.
    void expect_table_breaks(const std::vector<SplitDescriptor>& entries, RingError error) {
        write_table(memory_, kTable, entries);
        expect_chain_breaks({{.address = kTable,
                              .length = static_cast<uint32_t>(16 * entries.size()),
                              .flags = kIndirect}},
                            error);
    }

    SplitRing ring_{memory_, kSize, kRing};
};

TEST_F(SplitErrorTest, AvailableIndexOneTooFar) {
    ring_.set_available_index(kSize + 1);
    expect_broken(RingError::kAvailableIndexJump);
}

TEST_F(SplitErrorTest, AvailableIndexBehind) {
    ring_.set_available_index(0xffff);
    expect_broken(RingError::kAvailableIndexJump);
}

TEST_F(SplitErrorTest, HeadOutOfRange) {
    ring_.offer(kSize);
    expect_broken(RingError::kHeadOutOfRange);
}

TEST_F(SplitErrorTest, HeadFarOutOfRange) {
    ring_.offer(0xffff);
    expect_broken(RingError::kHeadOutOfRange);
}

TEST_F(SplitErrorTest, HeadInFlight) {
    ring_.set_descriptor(2, {.address = kData, .length = 4, .flags = kWrite});
    ring_.offer(2);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    ring_.offer(2);
    expect_broken(RingError::kHeadInFlight);

    chain->complete(3);  // what was popped before completes as ever
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 2, .length = 3}));
}

TEST_F(SplitErrorTest, HeadMayComeAgainOnceItIsUsed) {
    ring_.set_descriptor(2, {.address = kData, .length = 4});
    ring_.offer(2);
    queue_->pop()->complete(0);
    EXPECT_TRUE(queue_->publish());
    ring_.offer(2);
    EXPECT_TRUE(queue_->pop().has_value());
}

TEST_F(SplitErrorTest, NextOutOfRange) {
    expect_chain_breaks({{.address = kData, .length = 4, .flags = kNext, .next = kSize}},
                        RingError::kNextOutOfRange);
}

TEST_F(SplitErrorTest, ChainLoopsOnItself) {
    expect_chain_breaks({{.address = kData, .length = 4, .flags = kNext, .next = 0}},
                        RingError::kChainTooLong);
}

TEST_F(SplitErrorTest, ChainLoopsThroughAnother) {
    expect_chain_breaks({{.address = kData, .length = 4, .flags = kNext, .next = 1},
                         {.address = kData, .length = 4, .flags = kNext, .next = 0}},
                        RingError::kChainTooLong);
}

TEST_F(SplitErrorTest, EmptyBuffersLoop) {
    expect_chain_breaks({{.address = kData, .length = 0, .flags = kNext, .next = 0}},
                        RingError::kChainTooLong);
}

TEST_F(SplitErrorTest, ChainOfTheWholeRingIsFine) {
    for (uint16_t i = 0; i < kSize; ++i) {
        ring_.set_descriptor(i,
                             {.address = kData,
                              .length = 4,
                              .flags = i + 1 < kSize ? kNext : uint16_t{0},
                              .next = static_cast<uint16_t>(i + 1)});
    }
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 4U * kSize);
}

TEST_F(SplitErrorTest, ReadableAfterWritable) {
    expect_chain_breaks({{.address = kData, .length = 4, .flags = kNext | kWrite, .next = 1},
                         {.address = kData, .length = 4}},
                        RingError::kReadableAfterWritable);
}

TEST_F(SplitErrorTest, BufferOutsideMemory) {
    expect_chain_breaks({{.address = kMemoryEnd, .length = 1}}, RingError::kBufferUnmapped);
}

TEST_F(SplitErrorTest, BufferRunsOutOfMemory) {
    expect_chain_breaks({{.address = kMemoryEnd - 1, .length = 2}}, RingError::kBufferUnmapped);
}

TEST_F(SplitErrorTest, BufferRunsOutOfMemoryBehindASecondRegion) {
    expect_chain_breaks({{.address = kMore - 1, .length = 0x10002}}, RingError::kBufferUnmapped);
}

TEST_F(SplitErrorTest, BufferWrapsAroundTheAddressSpace) {
    expect_chain_breaks({{.address = ~0ULL, .length = 2}}, RingError::kBufferWraps);
}

TEST_F(SplitErrorTest, BufferEndsWithTheAddressSpace) {
    expect_chain_breaks({{.address = ~0ULL, .length = 1}}, RingError::kBufferUnmapped);
}

TEST_F(SplitErrorTest, ReadableBytesBeyondTheLimit) {
    expect_chain_breaks({{.address = kHuge, .length = 0x80000000, .flags = kNext, .next = 1},
                         {.address = kHuge, .length = 0x80000000}},
                        RingError::kChainBytesTooMany);
}

TEST_F(SplitErrorTest, WritableBytesBeyondTheLimit) {
    expect_chain_breaks(
        {{.address = kHuge, .length = 0x80000000, .flags = kNext | kWrite, .next = 1},
         {.address = kHuge, .length = 0x80000000, .flags = kWrite}},
        RingError::kChainBytesTooMany);
}

TEST_F(SplitErrorTest, BytesUpToTheLimitInBothDirectionsAreFine) {
    ring_.set_descriptor(0, {.address = kHuge, .length = 0x80000000, .flags = kNext, .next = 1});
    ring_.set_descriptor(1, {.address = kHuge, .length = 0x7fffffff, .flags = kNext, .next = 2});
    ring_.set_descriptor(
        2, {.address = kHuge, .length = 0x7fffffff, .flags = kNext | kWrite, .next = 3});
    ring_.set_descriptor(3, {.address = kHuge, .length = 0x80000000, .flags = kWrite});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 0xffffffffU);
    EXPECT_EQ(chain->writable_bytes(), 0xffffffffU);
    chain->complete(0xffffffff);
}

TEST_F(SplitErrorTest, IndirectNotNegotiated) {
    VirtqueueConfig config = ring_.config();
    config.indirect = false;
    create(config, 0);
    expect_table_breaks({{.address = kData, .length = 4}}, RingError::kIndirectNotNegotiated);
}

TEST_F(SplitErrorTest, IndirectNested) {
    expect_table_breaks({{.address = kTable, .length = 16, .flags = kIndirect}},
                        RingError::kIndirectNested);
}

TEST_F(SplitErrorTest, IndirectWithNext) {
    write_table<SplitDescriptor>(memory_, kTable, {{.address = kData, .length = 4}});
    expect_chain_breaks({{.address = kTable, .length = 16, .flags = kIndirect | kNext, .next = 1},
                         {.address = kData, .length = 4}},
                        RingError::kIndirectWithNext);
}

TEST_F(SplitErrorTest, IndirectLengthZero) {
    expect_chain_breaks({{.address = kTable, .length = 0, .flags = kIndirect}},
                        RingError::kIndirectLength);
}

TEST_F(SplitErrorTest, IndirectLengthNoMultipleOfSixteen) {
    write_table<SplitDescriptor>(memory_, kTable, {{.address = kData, .length = 4}});
    expect_chain_breaks({{.address = kTable, .length = 17, .flags = kIndirect}},
                        RingError::kIndirectLength);
}

TEST_F(SplitErrorTest, IndirectOneEntryTooLong) {
    expect_chain_breaks(
        {{.address = kTable, .length = 16 * (kIndirectEntriesMax + 1), .flags = kIndirect}},
        RingError::kIndirectTooLong);
}

TEST_F(SplitErrorTest, IndirectOfTheLargestSizeIsFine) {
    write_table<SplitDescriptor>(memory_, kTable, {{.address = kData, .length = 4}});
    ring_.set_descriptor(
        0, {.address = kTable, .length = 16 * kIndirectEntriesMax, .flags = kIndirect});
    ring_.offer(0);
    EXPECT_TRUE(queue_->pop().has_value());
}

TEST_F(SplitErrorTest, IndirectTableOutsideMemory) {
    expect_chain_breaks({{.address = kMemoryEnd, .length = 16, .flags = kIndirect}},
                        RingError::kIndirectUnmapped);
}

TEST_F(SplitErrorTest, IndirectTableThatWraps) {
    expect_chain_breaks({{.address = ~0ULL - 15, .length = 32, .flags = kIndirect}},
                        RingError::kIndirectUnmapped);
}

TEST_F(SplitErrorTest, IndirectTableAcrossTwoRegions) {
    expect_chain_breaks({{.address = kMore - 8, .length = 16, .flags = kIndirect}},
                        RingError::kIndirectUnmapped);
}

TEST_F(SplitErrorTest, IndirectNextOutsideItsTable) {
    // Entry 1 would exist in the ring's own table, not in this one.
    expect_table_breaks({{.address = kData, .length = 4, .flags = kNext, .next = 1}},
                        RingError::kNextOutOfRange);
}

TEST_F(SplitErrorTest, IndirectTableLoops) {
    expect_table_breaks({{.address = kData, .length = 4, .flags = kNext, .next = 1},
                         {.address = kData, .length = 4, .flags = kNext, .next = 0}},
                        RingError::kChainTooLong);
}

TEST_F(SplitErrorTest, ReadableInTheTableAfterWritableDirect) {
    write_table<SplitDescriptor>(memory_, kTable, {{.address = kData, .length = 4}});
    expect_chain_breaks({{.address = kData, .length = 4, .flags = kNext | kWrite, .next = 1},
                         {.address = kTable, .length = 16, .flags = kIndirect}},
                        RingError::kReadableAfterWritable);
}

TEST_F(SplitErrorTest, BufferThatIsTheRingItself) {
    const auto ring_bytes = static_cast<uint32_t>(ring_.end() - kRing);
    ring_.set_descriptor(0, {.address = kRing, .length = ring_bytes, .flags = kWrite});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    const std::vector<std::byte> ones(ring_bytes, std::byte{0xff});
    EXPECT_EQ(chain->take_writer().write(ones), ring_bytes);
    chain->complete(ring_bytes);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 1);
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 0, .length = ring_bytes}));
    expect_broken(RingError::kAvailableIndexJump);
}

TEST_F(SplitErrorTest, BuffersThatAreTheSameMemory) {
    ring_.set_descriptor(0, {.address = kData, .length = 4, .flags = kNext, .next = 1});
    ring_.set_descriptor(1, {.address = kData, .length = 4, .flags = kNext | kWrite, .next = 2});
    ring_.set_descriptor(2, {.address = kData + 2, .length = 4, .flags = kWrite});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 4U);
    EXPECT_EQ(chain->writable_bytes(), 8U);
}

TEST_F(SplitErrorTest, RingOfAllOnes) {
    std::memset(memory_.at(kRing), 0xff, ring_.end() - kRing);
    expect_broken(RingError::kAvailableIndexJump);
}

TEST_F(SplitErrorTest, TheFirstReasonStays) {
    ring_.offer(kSize);
    expect_broken(RingError::kHeadOutOfRange);
    queue_->break_ring(RingError::kDevice);
    EXPECT_EQ(queue_->broken(), RingError::kHeadOutOfRange);
}

TEST_F(SplitErrorTest, TheDeviceMayBreakTheRingWhileItHasAChain) {
    ring_.set_descriptor(0, {.address = kData, .length = 4});
    ring_.offer(0);
    ring_.offer(1);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    queue_->break_ring(RingError::kDevice);
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    chain.reset();
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 1);
}

TEST_F(SplitErrorTest, AHeadBadFromTheStartLeaksNoSlot) {
    // All heads in flight, then one more: the ring holds exactly as many slots as it needs.
    for (uint16_t head = 0; head < kSize; ++head) {
        ring_.set_descriptor(head, {.address = kData, .length = 4});
        ring_.offer(head);
    }
    std::vector<DescriptorChain> chains;
    while (auto chain = queue_->pop()) {
        chains.push_back(std::move(*chain));
    }
    ASSERT_EQ(chains.size(), kSize);
    ring_.offer(3);
    expect_broken(RingError::kHeadInFlight);
    chains.clear();
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), kSize);
}

// --- Packed ------------------------------------------------------------------------------------

class PackedErrorTest : public RingErrorTest {
  protected:
    void SetUp() override { create(ring_.config(), 0x80008000); }

    void expect_chain_breaks(const std::vector<PackedDescriptor>& chain, RingError error) {
        ring_.offer(1, chain);
        expect_broken(error);
    }

    PackedRing ring_{memory_, kSize, kRing};
};

TEST_F(PackedErrorTest, IdInFlight) {
    ring_.offer(40000, {{.address = kData, .length = 4}});
    auto chain = queue_->pop();
    ring_.offer(40000, {{.address = kData, .length = 4}});
    expect_broken(RingError::kHeadInFlight);
    chain.reset();
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(ring_.is_used(0, true));
}

TEST_F(PackedErrorTest, EntriesInFlightMadeAvailableAgain) {
    ring_.offer(1, std::vector<PackedDescriptor>(kSize, {.address = kData, .length = 4}));
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    ring_.offer(2, {{.address = kData, .length = 4}});
    expect_broken(RingError::kAvailableIndexJump);
}

TEST_F(PackedErrorTest, EntriesMadeAvailableAgainBeforeTheyAreVisiblyUsed) {
    ring_.offer(1, std::vector<PackedDescriptor>(kSize, {.address = kData, .length = 4}));
    queue_->pop()->complete(0);
    ring_.offer(2, {{.address = kData, .length = 4}});
    expect_broken(RingError::kAvailableIndexJump);
}

TEST_F(PackedErrorTest, ChainRunsIntoEntriesInFlight) {
    ring_.offer(1, {{.address = kData, .length = 4}, {.address = kData, .length = 4}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    expect_chain_breaks(std::vector<PackedDescriptor>(kSize - 1, {.address = kData, .length = 4}),
                        RingError::kChainTooLong);
}

TEST_F(PackedErrorTest, ChainWithoutEnd) {
    for (uint16_t index = 0; index < kSize; ++index) {
        const PackedDescriptor descriptor = {
            .address = kData, .length = 4, .flags = kNext | kAvailableBit};
        std::memcpy(ring_.entry(index), &descriptor, sizeof descriptor);
    }
    expect_broken(RingError::kChainTooLong);
}

TEST_F(PackedErrorTest, ReadableAfterWritable) {
    expect_chain_breaks(
        {{.address = kData, .length = 4, .flags = kWrite}, {.address = kData, .length = 4}},
        RingError::kReadableAfterWritable);
}

TEST_F(PackedErrorTest, BufferOutsideMemory) {
    expect_chain_breaks({{.address = kMemoryEnd - 1, .length = 2}}, RingError::kBufferUnmapped);
}

TEST_F(PackedErrorTest, BufferWrapsAroundTheAddressSpace) {
    expect_chain_breaks({{.address = ~0ULL, .length = 2}}, RingError::kBufferWraps);
}

TEST_F(PackedErrorTest, BytesBeyondTheLimit) {
    expect_chain_breaks(
        {{.address = kHuge, .length = 0x80000000}, {.address = kHuge, .length = 0x80000000}},
        RingError::kChainBytesTooMany);
}

TEST_F(PackedErrorTest, IndirectNotNegotiated) {
    VirtqueueConfig config = ring_.config();
    config.indirect = false;
    create(config, 0x80008000);
    expect_chain_breaks({{.address = kTable, .length = 16, .flags = kIndirect}},
                        RingError::kIndirectNotNegotiated);
}

TEST_F(PackedErrorTest, IndirectWithNext) {
    write_table<PackedDescriptor>(memory_, kTable, {{.address = kData, .length = 4}});
    expect_chain_breaks(
        {{.address = kTable, .length = 16, .flags = kIndirect}, {.address = kData, .length = 4}},
        RingError::kIndirectWithNext);
}

TEST_F(PackedErrorTest, IndirectLengthZero) {
    expect_chain_breaks({{.address = kTable, .length = 0, .flags = kIndirect}},
                        RingError::kIndirectLength);
}

TEST_F(PackedErrorTest, IndirectLengthNoMultipleOfSixteen) {
    expect_chain_breaks({{.address = kTable, .length = 31, .flags = kIndirect}},
                        RingError::kIndirectLength);
}

TEST_F(PackedErrorTest, IndirectOneEntryTooLong) {
    expect_chain_breaks(
        {{.address = kTable, .length = 16 * (kIndirectEntriesMax + 1), .flags = kIndirect}},
        RingError::kIndirectTooLong);
}

TEST_F(PackedErrorTest, IndirectTableAcrossTwoRegions) {
    expect_chain_breaks({{.address = kMore - 8, .length = 16, .flags = kIndirect}},
                        RingError::kIndirectUnmapped);
}

TEST_F(PackedErrorTest, RingOfAllOnesIsNoWork) {
    std::memset(memory_.at(kRing), 0xff, ring_.end() - kRing);
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_FALSE(queue_->enable_kicks());
}

TEST_F(PackedErrorTest, WrongWrapCounterIsNoWork) {
    const PackedDescriptor descriptor = {.address = kData, .length = 4, .flags = kUsedBit};
    std::memcpy(ring_.entry(0), &descriptor, sizeof descriptor);
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_FALSE(queue_->broken().has_value());
}

TEST_F(PackedErrorTest, EqualAvailableAndUsedBitsAreNoWork) {
    const PackedDescriptor descriptor = {
        .address = kData, .length = 4, .flags = kAvailableBit | kUsedBit};
    std::memcpy(ring_.entry(0), &descriptor, sizeof descriptor);
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
}

}  // namespace
}  // namespace outrigger::test
