// SPDX-License-Identifier: Apache-2.0
/// Memory that comes and goes under a ring, and the limits of what a ring holds.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <stdlib.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 8;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kDataRegion = 0x100000;
constexpr uint32_t kFreshPackedBase = 0x80008000;

/// The ring lies in region 0, the buffers in region 1.
class MemoryChangeTest : public testing::Test {
  protected:
    void SetUp() override { create(ring_.config(), 0); }

    void create(const VirtqueueConfig& config, uint32_t base) {
        auto created = Virtqueue::create(config, VringBase{base}, memory_.snapshot(1));
        ASSERT_TRUE(created.has_value());
        queue_ = std::move(*created);
    }

    void offer(uint16_t head) {
        ring_.set_descriptor(head, {.address = kDataRegion, .length = 4, .flags = kWrite});
        ring_.offer(head);
    }

    GuestMemory memory_{{{0, 0x10000}, {kDataRegion, 0x10000}}};
    SplitRing ring_{memory_, kSize, kRing};
    std::unique_ptr<Virtqueue> queue_;
};

TEST_F(MemoryChangeTest, NewChainsUseTheNewMemory) {
    queue_->adopt_memory(memory_.snapshot_without(1, 2));
    EXPECT_TRUE(queue_->old_memory_released());
    offer(0);
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_EQ(queue_->broken(), RingError::kBufferUnmapped);
}

TEST_F(MemoryChangeTest, ChainKeepsItsMemoryUntilItIsBack) {
    offer(0);
    offer(1);
    auto first = queue_->pop();
    auto second = queue_->pop();
    ASSERT_TRUE(first && second);
    const auto region = memory_.watch(1);
    const auto without_data = memory_.snapshot_without(1, 2);

    queue_->adopt_memory(without_data);
    memory_.forget();

    EXPECT_FALSE(queue_->old_memory_released());
    EXPECT_FALSE(region.expired());
    ChainWriter writer = first->take_writer();
    EXPECT_EQ(writer.write(std::as_bytes(std::span("data", 4))), 4U);
    first->complete(4);
    EXPECT_FALSE(queue_->old_memory_released());
    second.reset();
    EXPECT_TRUE(queue_->old_memory_released());
    EXPECT_TRUE(region.expired());
}

/// A region whose file goes.
class LosableRegion final {
  public:
    static constexpr uint64_t kBytes = 0x1000;

    LosableRegion() {
        std::string path = testing::TempDir() + "/losable-XXXXXX";
        fd_.reset(::mkstemp(path.data()));
        ::unlink(path.c_str());
        EXPECT_EQ(::ftruncate(fd_.get(), kBytes), 0);
        region_ = std::make_shared<const MemoryRegion>(
            MemoryRegion::map({.guest_address = GuestAddr{0x200000},
                               .size = kBytes,
                               .frontend_address = FrontendAddr{0x200000},
                               .mmap_offset = 0},
                              fd_.get())
                .value());
    }

    /// Somebody reads it, as a device would.
    void lose() const {
        ASSERT_EQ(::ftruncate(fd_.get(), 0), 0);
        (void)*static_cast<const volatile std::byte*>(region_->data());
        ASSERT_TRUE(region_->lost());
    }

    [[nodiscard]] const MemorySnapshot::RegionPointer& pointer() const { return region_; }

  private:
    UniqueFd fd_;
    MemorySnapshot::RegionPointer region_;
};

TEST_F(MemoryChangeTest, NothingIsTakenOnceMemoryIsLost) {
    const LosableRegion region;
    queue_->adopt_memory(memory_.snapshot(2)->with_region(region.pointer(), 3).value());
    offer(0);
    offer(1);
    const auto first = queue_->pop();
    ASSERT_TRUE(first.has_value());
    EXPECT_FALSE(queue_->memory_was_lost());
    region.lose();
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_EQ(queue_->broken(), RingError::kMemoryLost);
    EXPECT_TRUE(queue_->memory_was_lost());
}

TEST_F(MemoryChangeTest, MemoryOfAnOlderChainCountsWhenItIsLost) {
    const LosableRegion region;
    queue_->adopt_memory(memory_.snapshot(2)->with_region(region.pointer(), 3).value());
    offer(0);
    const auto first = queue_->pop();
    ASSERT_TRUE(first.has_value());
    queue_->adopt_memory(memory_.snapshot(4));
    region.lose();
    EXPECT_TRUE(queue_->memory_was_lost());
}

TEST_F(MemoryChangeTest, MemoryOfOthersMayGo) {
    const LosableRegion region;
    offer(0);
    region.lose();
    EXPECT_FALSE(queue_->memory_was_lost());
    EXPECT_TRUE(queue_->pop().has_value());
}

TEST_F(MemoryChangeTest, EveryOlderSnapshotCounts) {
    offer(0);
    auto first = queue_->pop();
    queue_->adopt_memory(memory_.snapshot(2));
    offer(1);
    auto second = queue_->pop();
    queue_->adopt_memory(memory_.snapshot(3));
    offer(2);
    auto third = queue_->pop();
    ASSERT_TRUE(first && second && third);

    third.reset();
    EXPECT_FALSE(queue_->old_memory_released());
    first.reset();
    EXPECT_FALSE(queue_->old_memory_released());
    second.reset();
    EXPECT_TRUE(queue_->old_memory_released());
}

TEST_F(MemoryChangeTest, ManyChangesWhileAChainIsOutKeepOnlyWhatIsPinned) {
    offer(0);
    auto chain = queue_->pop();
    std::weak_ptr<const MemorySnapshot> between;
    for (uint64_t epoch = 2; epoch < 100; ++epoch) {
        auto snapshot = memory_.snapshot(epoch);
        if (epoch == 50) {
            between = snapshot;
        }
        queue_->adopt_memory(std::move(snapshot));
    }
    EXPECT_TRUE(between.expired());
    EXPECT_FALSE(queue_->old_memory_released());
    chain.reset();
    EXPECT_TRUE(queue_->old_memory_released());
}

TEST_F(MemoryChangeTest, RingOutsideMemoryYieldsNothing) {
    offer(0);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    queue_->suppress_kicks();
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_FALSE(queue_->publish());
    EXPECT_FALSE(queue_->broken().has_value());
}

TEST_F(MemoryChangeTest, RingThatComesBackGoesOn) {
    offer(0);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    EXPECT_FALSE(queue_->take_processing_request());
    queue_->adopt_memory(memory_.snapshot(3));
    EXPECT_TRUE(queue_->take_processing_request());
    EXPECT_TRUE(queue_->pop().has_value());
}

TEST_F(MemoryChangeTest, KicksAskedForMeanwhileAreArmedWhenTheRingComesBack) {
    queue_->suppress_kicks();
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_TRUE(ring_.no_notify());
    queue_->adopt_memory(memory_.snapshot(3));
    EXPECT_FALSE(ring_.no_notify());
}

TEST_F(MemoryChangeTest, SuppressedKicksStaySuppressedThroughChanges) {
    EXPECT_FALSE(queue_->enable_kicks());
    queue_->suppress_kicks();
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    queue_->adopt_memory(memory_.snapshot(3));
    EXPECT_TRUE(ring_.no_notify());
}

TEST_F(MemoryChangeTest, MemoryThatKeepsTheRingRequestsNothing) {
    queue_->adopt_memory(memory_.snapshot(2));
    EXPECT_FALSE(queue_->take_processing_request());
}

// Else the driver would wait for ever for a chain that GET_VRING_BASE counts as done.
TEST_F(MemoryChangeTest, CompletionsReachTheDriverThroughTheMemoryThatGoes) {
    offer(0);
    offer(1);
    auto first = queue_->pop();
    auto second = queue_->pop();
    ASSERT_TRUE(first && second);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));

    second->complete(3);
    EXPECT_TRUE(queue_->publish());
    EXPECT_FALSE(queue_->old_memory_released());
    first->complete(2);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(queue_->old_memory_released());
    EXPECT_EQ(ring_.used_index(), 2);
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 1, .length = 3}));
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 0, .length = 2}));
    EXPECT_EQ(queue_->base().raw, 2U);
}

TEST_F(MemoryChangeTest, TheRingsOwnMemoryIsPinnedThoughTheChainsLieInOlder) {
    offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    queue_->adopt_memory(memory_.snapshot(2));
    std::weak_ptr<const MemorySnapshot> last_with_ring;
    {
        auto snapshot = memory_.snapshot(3);
        last_with_ring = snapshot;
        queue_->adopt_memory(std::move(snapshot));
    }
    queue_->adopt_memory(memory_.snapshot_without(0, 4));
    queue_->adopt_memory(memory_.snapshot_without(0, 5));
    EXPECT_FALSE(last_with_ring.expired());
    chain->complete(4);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 1);
    EXPECT_TRUE(last_with_ring.expired());
    EXPECT_TRUE(queue_->old_memory_released());
}

TEST_F(MemoryChangeTest, ARingThatLeavesTakesNothingMore) {
    offer(0);
    offer(1);
    auto chain = queue_->pop();
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_FALSE(queue_->enable_kicks());
    chain->complete(0);
}

TEST_F(MemoryChangeTest, ARingThatComesBackBeforeItsLastChainGoesOnInTheNewMemory) {
    offer(0);
    offer(1);
    auto chain = queue_->pop();
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    const GuestMemory moved({{0, 0x10000}, {kDataRegion, 0x10000}});
    const SplitRing ring_there(moved, kSize, kRing);
    queue_->adopt_memory(moved.snapshot(3));
    EXPECT_TRUE(queue_->take_processing_request());
    chain->complete(4);
    EXPECT_TRUE(queue_->publish());
    EXPECT_TRUE(queue_->old_memory_released());
    EXPECT_EQ(ring_.used_index(), 0);
    EXPECT_EQ(ring_there.used_index(), 1);
}

TEST_F(MemoryChangeTest, UnpublishedCompletionsBecomeVisibleBeforeTheRingGoes) {
    offer(0);
    queue_->pop()->complete(1);
    EXPECT_TRUE(queue_->publish());
    offer(1);
    queue_->pop()->complete(1);
    ring_.set_no_interrupt(true);

    queue_->adopt_memory(memory_.snapshot_without(0, 2));

    EXPECT_EQ(ring_.used_index(), 2);
    EXPECT_TRUE(queue_->publish());  // could not ask the driver, so it is called
    EXPECT_FALSE(queue_->publish());
}

TEST_F(MemoryChangeTest, PackedCompletionsReachTheDriverThroughTheMemoryThatGoes) {
    PackedRing ring(memory_, kSize, 0x4000);
    create(ring.config(), kFreshPackedBase);
    ring.offer(7, {{.address = kDataRegion, .length = 4, .flags = kWrite}});
    ring.offer(8,
               {{.address = kDataRegion, .length = 4, .flags = kWrite},
                {.address = kDataRegion, .length = 4, .flags = kWrite}});
    auto first = queue_->pop();
    auto second = queue_->pop();
    ASSERT_TRUE(first && second);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    second->complete(3);
    first->complete(2);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring.used(0), (UsedElement{.id = 8, .length = 3}));
    EXPECT_EQ(ring.used(2), (UsedElement{.id = 7, .length = 2}));
    EXPECT_EQ(queue_->base().raw, 0x80038003U);
    EXPECT_TRUE(queue_->old_memory_released());
}

TEST_F(MemoryChangeTest, BrokenRingStaysBrokenThroughChanges) {
    queue_->break_ring(RingError::kDevice);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    queue_->adopt_memory(memory_.snapshot(3));
    offer(0);
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
}

TEST_F(MemoryChangeTest, RingAtAnAddressThatNoLongerFitsIsNotCovered) {
    // The same guest addresses, but the region now ends within the used ring.
    const uint64_t short_end = ring_.end() - 1;
    const GuestMemory shorter({{0, short_end}, {kDataRegion, 0x10000}});
    offer(0);
    queue_->adopt_memory(shorter.snapshot(2));
    EXPECT_FALSE(queue_->has_available());
}

// --- What a ring holds at most ------------------------------------------------------------------

constexpr uint64_t kTables = kDataRegion + 0x8000;

class HoldBackTest : public MemoryChangeTest {
  protected:
    /// A chain of as many one-byte segments as a table may list.
    void offer_giant(uint16_t head) {
        std::vector<SplitDescriptor> entries;
        for (uint16_t i = 0; i < kIndirectEntriesMax; ++i) {
            entries.push_back({.address = kDataRegion,
                               .length = 1,
                               .flags = kNext,
                               .next = static_cast<uint16_t>(i + 1)});
        }
        entries.back().flags = 0;
        write_table(memory_, kTables, entries);
        ring_.set_descriptor(
            head, {.address = kTables, .length = 16 * kIndirectEntriesMax, .flags = kIndirect});
        ring_.offer(head);
    }

    /// 4096 segments are the limit of a ring of 8: four giants reach it.
    void SetUp() override {
        MemoryChangeTest::SetUp();
        for (uint16_t head = 0; head < 5; ++head) {
            offer_giant(head);
        }
        while (auto chain = queue_->pop()) {
            chains_.push_back(std::move(*chain));
        }
    }

    std::vector<DescriptorChain> chains_;
};

TEST_F(HoldBackTest, GiantChainsAreHeldBack) {
    EXPECT_EQ(chains_.size(), 4U);
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_FALSE(queue_->broken().has_value());
}

/// A worker that armed kicks once does not arm them again, so they must be armed here too.
TEST_F(HoldBackTest, KicksAreArmedAllTheSame) {
    queue_->suppress_kicks();
    EXPECT_TRUE(ring_.no_notify());
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_FALSE(ring_.no_notify());
}

TEST_F(HoldBackTest, ACompletionLetsTheNextOneIn) {
    EXPECT_FALSE(queue_->take_processing_request());
    chains_.back().complete(0);
    EXPECT_TRUE(queue_->take_processing_request());
    EXPECT_TRUE(queue_->has_available());
    EXPECT_TRUE(queue_->pop().has_value());
}

TEST_F(HoldBackTest, AllComeThroughInTheEnd) {
    chains_.clear();
    auto last = queue_->pop();
    ASSERT_TRUE(last.has_value());
    EXPECT_EQ(last->id(), 4);
    EXPECT_EQ(last->readable_bytes(), kIndirectEntriesMax);
    last.reset();
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 5);
}

TEST(ChainPieces, AChainCutIntoTooManyPiecesBreaksTheRing) {
    // Nine neighbours of 16 bytes: each of 512 buffers across all of them has nine pieces.
    std::vector<GuestMemory::Region> regions = {{0, 0x10000}};
    for (uint64_t i = 0; i < 9; ++i) {
        regions.push_back({kDataRegion + 16 * i, 16});
    }
    const GuestMemory memory(regions);
    SplitRing ring(memory, kSize, kRing);
    auto queue = Virtqueue::create(ring.config(), VringBase{0}, memory.snapshot()).value();
    std::vector<SplitDescriptor> entries;
    for (uint16_t i = 0; i < 512; ++i) {
        entries.push_back({.address = kDataRegion,
                           .length = 16 * 9,
                           .flags = kNext,
                           .next = static_cast<uint16_t>(i + 1)});
    }
    entries.back().flags = 0;
    write_table(memory, 0x4000, entries);
    ring.set_descriptor(0, {.address = 0x4000, .length = 16 * 512, .flags = kIndirect});
    ring.offer(0);
    EXPECT_FALSE(queue->pop().has_value());
    EXPECT_EQ(queue->broken(), RingError::kChainTooLong);
}

// --- Our own mistakes ---------------------------------------------------------------------------

using VirtqueueDeathTest = MemoryChangeTest;

TEST_F(VirtqueueDeathTest, MoreWrittenThanTheChainHoldsIsABug) {
    offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_DEATH(chain->complete(5), "writable_bytes");
}

TEST_F(VirtqueueDeathTest, CompletingTwiceIsABug) {
    offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    chain->complete(0);
    EXPECT_DEATH(chain->complete(0), "queue_ != nullptr");
}

}  // namespace
}  // namespace outrigger::test
