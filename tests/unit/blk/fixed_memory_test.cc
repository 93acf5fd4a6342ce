// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/fixed_memory.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/error.h"

#include "tools/driver/guest_memory.h"

namespace outrigger::blk {
namespace {

constexpr size_t kPiece = FixedMemory::kPieceBytes;
constexpr size_t kRegionBytes = 2 * kPiece + 4096;

/// A ring that registers whatever it is told to, and says what it has.
class RecordingUring final : public Uring {
  public:
    [[nodiscard]] io_uring_sqe* next_sqe() override { return nullptr; }

    void bind(io_uring_sqe*, UringOperation&) override {}

    [[nodiscard]] std::optional<uint32_t> register_file(int) override { return std::nullopt; }

    void unregister_file(uint32_t) override {}

    [[nodiscard]] Result<uint32_t> register_buffer(std::span<std::byte> memory) override {
        ++calls;
        if (refuses) {
            return failure(error_from_code("no", ENOMEM));
        }
        registered.emplace(next_slot, memory);
        return next_slot++;
    }

    void unregister_buffer(uint32_t slot) override { EXPECT_EQ(registered.erase(slot), 1U); }

    [[nodiscard]] bool supports(int) const override { return true; }

    std::map<uint32_t, std::span<std::byte>> registered;
    uint32_t next_slot = 0;
    int calls = 0;
    bool refuses = false;
};

class FixedMemoryTest : public testing::Test {
  protected:
    static MemorySnapshot::RegionPointer make_region(uint64_t guest_address,
                                                     uint64_t size = kRegionBytes) {
        auto memory = driver::GuestMemory::create(size).value();
        const driver::RegionId id = memory.regions().front();
        return std::make_shared<const MemoryRegion>(
            MemoryRegion::map({.guest_address = GuestAddr{guest_address},
                               .size = size,
                               .frontend_address = FrontendAddr{guest_address},
                               .mmap_offset = 0},
                              memory.fd(id))
                .value());
    }

    static std::shared_ptr<const MemorySnapshot> snapshot_of(
        std::vector<MemorySnapshot::RegionPointer> regions) {
        return MemorySnapshot::create(std::move(regions), 1, 8).value();
    }

    /// What registers and finds the bytes [at, at + length) of the first region.
    std::optional<uint32_t> slot_at(size_t at, size_t length = 4096) {
        return fixed_.slot_of({.iov_base = region_->data() + at, .iov_len = length});
    }

    void TearDown() override {
        fixed_.release();
        EXPECT_TRUE(uring_.registered.empty());
        EXPECT_EQ(counts_.bytes.load(), 0U);
    }

    RecordingUring uring_;
    FixedMemoryCounts counts_;
    MemorySnapshot::RegionPointer region_ = make_region(uint64_t{1} << 32);
    FixedMemory fixed_{uring_, counts_};
};

TEST_F(FixedMemoryTest, NothingIsRegisteredBeforeItIsUsed) {
    fixed_.use(*snapshot_of({region_}));
    EXPECT_EQ(uring_.calls, 0);
}

TEST_F(FixedMemoryTest, PieceIsRegisteredOnce) {
    fixed_.use(*snapshot_of({region_}));
    const auto slot = slot_at(0);
    ASSERT_TRUE(slot);
    EXPECT_EQ(slot_at(kPiece - 4096), slot);
    EXPECT_EQ(uring_.calls, 1);
    EXPECT_EQ(uring_.registered.at(*slot).data(), region_->data());
    EXPECT_EQ(uring_.registered.at(*slot).size(), kPiece);
    EXPECT_EQ(counts_.bytes.load(), kPiece);
}

TEST_F(FixedMemoryTest, LastPieceEndsWithTheRegion) {
    fixed_.use(*snapshot_of({region_}));
    const auto slot = slot_at(2 * kPiece);
    ASSERT_TRUE(slot);
    EXPECT_EQ(uring_.registered.at(*slot).data(), region_->data() + 2 * kPiece);
    EXPECT_EQ(uring_.registered.at(*slot).size(), 4096U);
}

TEST_F(FixedMemoryTest, SegmentOfTwoPiecesHasNoSlot) {
    fixed_.use(*snapshot_of({region_}));
    EXPECT_FALSE(slot_at(kPiece - 1, 2));
    EXPECT_TRUE(slot_at(kPiece - 1, 1));
    EXPECT_TRUE(slot_at(kPiece, 1));
}

TEST_F(FixedMemoryTest, SegmentBeyondTheRegionHasNoSlot) {
    fixed_.use(*snapshot_of({region_}));
    EXPECT_FALSE(slot_at(kRegionBytes - 1, 2));
    EXPECT_FALSE(slot_at(kRegionBytes, 1));
    EXPECT_FALSE(slot_at(kRegionBytes - 1, SIZE_MAX));
    EXPECT_TRUE(slot_at(kRegionBytes - 1, 1));
}

TEST_F(FixedMemoryTest, MemoryOfOurOwnHasNoSlot) {
    fixed_.use(*snapshot_of({region_}));
    std::byte own{};
    EXPECT_FALSE(fixed_.slot_of({.iov_base = &own, .iov_len = 1}));
    EXPECT_EQ(uring_.calls, 0);
}

TEST_F(FixedMemoryTest, WithoutMemoryNothingHasASlot) {
    EXPECT_FALSE(slot_at(0));
    fixed_.use(*snapshot_of({region_}));
    fixed_.use(*MemorySnapshot::empty());
    EXPECT_FALSE(slot_at(0));
}

TEST_F(FixedMemoryTest, RefusalIsCountedAndNotAskedForAgain) {
    fixed_.use(*snapshot_of({region_}));
    ASSERT_TRUE(slot_at(0));
    uring_.refuses = true;
    EXPECT_FALSE(slot_at(kPiece));
    EXPECT_FALSE(slot_at(2 * kPiece));
    EXPECT_EQ(uring_.calls, 2);
    EXPECT_EQ(counts_.refusals.load(), 1U);
    EXPECT_TRUE(slot_at(0)) << "what is registered stays";
}

TEST_F(FixedMemoryTest, RefusalIsForgottenWithTheMemory) {
    uring_.refuses = true;
    fixed_.use(*snapshot_of({region_}));
    EXPECT_FALSE(slot_at(0));
    uring_.refuses = false;
    fixed_.use(*snapshot_of({region_, make_region(uint64_t{2} << 32)}));
    EXPECT_TRUE(slot_at(0));
}

TEST_F(FixedMemoryTest, RegionThatStaysKeepsItsSlots) {
    fixed_.use(*snapshot_of({region_}));
    const auto slot = slot_at(0);
    const auto below = make_region(uint64_t{1} << 20);
    fixed_.use(*snapshot_of({below, region_}));
    EXPECT_EQ(slot_at(0), slot);
    EXPECT_EQ(uring_.calls, 1);
}

TEST_F(FixedMemoryTest, SameMemoryAgainChangesNothing) {
    fixed_.use(*snapshot_of({region_}));
    const auto slot = slot_at(0);
    fixed_.use(*snapshot_of({region_}));
    EXPECT_EQ(slot_at(0), slot);
    EXPECT_EQ(uring_.calls, 1);
}

TEST_F(FixedMemoryTest, RegionThatGoesIsGivenBackAndUnmapped) {
    auto leaving = make_region(uint64_t{2} << 32);
    const std::weak_ptr<const MemoryRegion> watched = leaving;
    fixed_.use(*snapshot_of({region_, leaving}));
    ASSERT_TRUE(slot_at(0));
    ASSERT_TRUE(fixed_.slot_of({.iov_base = leaving->data(), .iov_len = 1}));
    ASSERT_TRUE(fixed_.slot_of({.iov_base = leaving->data() + kPiece, .iov_len = 1}));
    leaving = nullptr;
    EXPECT_FALSE(watched.expired()) << "its address cannot become another region's";

    fixed_.use(*snapshot_of({region_}));

    EXPECT_TRUE(watched.expired());
    EXPECT_EQ(uring_.registered.size(), 1U);
    EXPECT_EQ(counts_.bytes.load(), kPiece);
}

TEST_F(FixedMemoryTest, MemoryBeyondTheRoomOfTheRingHasNoSlot) {
    const auto vast = make_region(uint64_t{1} << 40, (FixedMemory::kPiecesMax + 1) * kPiece);
    const auto last = make_region(uint64_t{1} << 50);
    fixed_.use(*snapshot_of({region_, vast, last}));
    const auto slot_in_vast = [&](size_t index) {
        return fixed_.slot_of({.iov_base = vast->data() + index * kPiece, .iov_len = 1});
    };

    ASSERT_TRUE(slot_at(2 * kPiece));
    EXPECT_TRUE(slot_in_vast(FixedMemory::kPiecesMax - 4));
    EXPECT_FALSE(slot_in_vast(FixedMemory::kPiecesMax - 3));
    EXPECT_FALSE(slot_in_vast(FixedMemory::kPiecesMax));
    EXPECT_FALSE(fixed_.slot_of({.iov_base = last->data(), .iov_len = 1}));
    EXPECT_EQ(uring_.calls, 2);

    fixed_.use(*snapshot_of({region_, last}));
    EXPECT_TRUE(fixed_.slot_of({.iov_base = last->data(), .iov_len = 1})) << "there is room again";
    EXPECT_TRUE(slot_at(2 * kPiece));
}

TEST_F(FixedMemoryTest, ReleaseUnmapsAndForgets) {
    fixed_.use(*snapshot_of({region_}));
    ASSERT_TRUE(slot_at(0));
    const std::weak_ptr<const MemoryRegion> watched = region_;
    std::byte* const data = region_->data();
    region_ = nullptr;
    fixed_.release();
    EXPECT_TRUE(watched.expired());
    EXPECT_FALSE(fixed_.slot_of({.iov_base = data, .iov_len = 1}));
    EXPECT_TRUE(uring_.registered.empty());
}

}  // namespace
}  // namespace outrigger::blk
