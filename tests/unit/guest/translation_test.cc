// SPDX-License-Identifier: Apache-2.0
/// Memory snapshots behind a virtual IOMMU, and with guest addresses in the front end's messages.
#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/guest/memory_snapshot.h"

namespace outrigger {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kGuest = 0x10'0000;
constexpr uint64_t kFrontend = 0x7f00'0000'0000;
constexpr AddressMode kIommu{.iommu = true};

MemorySnapshot::RegionPointer make_region(uint64_t guest, uint64_t size, uint64_t frontend) {
    const UniqueFd fd = create_shared_memory("test", size).value();
    return std::make_shared<const MemoryRegion>(
        MemoryRegion::map({.guest_address = GuestAddr{guest},
                           .size = size,
                           .frontend_address = FrontendAddr{frontend},
                           .mmap_offset = 0},
                          fd.get())
            .value());
}

/// Two regions of 16 pages that are neighbours for the front end and not for the guest.
class TranslationTest : public testing::Test {
  protected:
    void map(uint64_t iova, uint64_t size, uint64_t offset, Access access = Access::kReadWrite) {
        ASSERT_TRUE(
            iotlb_
                .update(
                    {.iova = iova, .size = size, .target = kFrontend + offset, .access = access})
                .has_value());
        renew(MemorySnapshot::Withdrawn::kNothing);
    }

    void renew(MemorySnapshot::Withdrawn withdrawn) {
        memory_ = memory_->with_translations(iotlb_, withdrawn);
    }

    [[nodiscard]] iovec look_up(uint64_t iova, uint64_t length, Access access = Access::kRead) {
        RegionHint hint;
        return memory_->translate_prefix(GuestAddr{iova}, length, hint, access).as_iovec();
    }

    [[nodiscard]] const std::byte* here(uint64_t offset) const {
        return offset < 16 * kPage ? first_->data() + offset
                                   : second_->data() + offset - 16 * kPage;
    }

    MemorySnapshot::RegionPointer first_ = make_region(kGuest, 16 * kPage, kFrontend);
    MemorySnapshot::RegionPointer second_ =
        make_region(2 * kGuest, 16 * kPage, kFrontend + 16 * kPage);
    std::shared_ptr<const MemorySnapshot> memory_ =
        MemorySnapshot::create({first_, second_}, 1, 8, kIommu).value();
    Iotlb iotlb_;
};

TEST_F(TranslationTest, NothingIsTranslatedAtFirst) {
    EXPECT_EQ(look_up(kGuest, 1).iov_len, 0U);
    EXPECT_EQ(look_up(kFrontend, 1).iov_len, 0U);
}

TEST_F(TranslationTest, MappingLeadsToItsTarget) {
    map(0x5000, kPage, 3 * kPage);
    const iovec found = look_up(0x5010, 16);
    EXPECT_EQ(found.iov_base, here(3 * kPage + 0x10));
    EXPECT_EQ(found.iov_len, 16U);
}

TEST_F(TranslationTest, BordersAreExact) {
    map(0x5000, kPage, 3 * kPage);
    EXPECT_EQ(look_up(0x4fff, 1).iov_len, 0U);
    EXPECT_EQ(look_up(0x6000, 1).iov_len, 0U);
    EXPECT_EQ(look_up(0x5fff, 2).iov_len, 1U);
}

TEST_F(TranslationTest, PermissionsAreKept) {
    map(0x5000, kPage, 0, Access::kRead);
    map(0x6000, kPage, kPage, Access::kWrite);
    EXPECT_EQ(look_up(0x5000, 8, Access::kRead).iov_len, 8U);
    EXPECT_EQ(look_up(0x5000, 8, Access::kWrite).iov_len, 0U);
    EXPECT_EQ(look_up(0x6000, 8, Access::kRead).iov_len, 0U);
    EXPECT_EQ(look_up(0x6000, 8, Access::kWrite).iov_len, 8U);
}

TEST_F(TranslationTest, PermissionIsCheckedWhereTheHintPoints) {
    map(0x5000, kPage, 0, Access::kRead);
    RegionHint hint;
    const GuestAddr at{0x5000};
    EXPECT_EQ(memory_->translate_prefix(at, 8, hint, Access::kRead).size(), 8U);
    EXPECT_TRUE(memory_->translate_prefix(at, 8, hint, Access::kWrite).empty());
}

TEST_F(TranslationTest, NeighboursInBothSpacesAreOnePiece) {
    map(0x5000, kPage, 0);
    map(0x6000, kPage, kPage);
    EXPECT_EQ(look_up(0x5000, 2 * kPage).iov_len, 2 * kPage);
}

TEST_F(TranslationTest, NeighboursElsewhereStayApart) {
    map(0x5000, kPage, kPage);
    map(0x6000, kPage, 0);
    EXPECT_EQ(look_up(0x5000, 2 * kPage).iov_len, kPage);
    EXPECT_EQ(look_up(0x6000, kPage).iov_base, here(0));
}

TEST_F(TranslationTest, NeighboursWithOtherPermissionsStayApart) {
    map(0x5000, kPage, 0, Access::kRead);
    map(0x6000, kPage, kPage, Access::kReadWrite);
    EXPECT_EQ(look_up(0x5000, 2 * kPage).iov_len, kPage);
    EXPECT_EQ(look_up(0x6000, kPage, Access::kWrite).iov_len, kPage);
}

TEST_F(TranslationTest, MappingMayGoOnInTheNextRegion) {
    map(0x5000, 2 * kPage, 15 * kPage);
    EXPECT_EQ(look_up(0x5000, kPage).iov_base, here(15 * kPage));
    EXPECT_EQ(look_up(0x6000, kPage).iov_base, here(16 * kPage));
}

TEST_F(TranslationTest, TargetMustLieWhollyInRegions) {
    EXPECT_TRUE(memory_->covers_target(kFrontend, 32 * kPage));
    EXPECT_FALSE(memory_->covers_target(kFrontend, 32 * kPage + 1));
    EXPECT_FALSE(memory_->covers_target(kFrontend - 1, 1));
    EXPECT_FALSE(memory_->covers_target(kGuest, 1));
}

TEST_F(TranslationTest, WhatLostItsRegionTranslatesNoMore) {
    map(0x5000, 2 * kPage, 15 * kPage);
    memory_ = memory_->without_region(second_->layout()).value();
    EXPECT_EQ(look_up(0x5000, kPage).iov_len, 0U);
    renew(MemorySnapshot::Withdrawn::kSome);
    EXPECT_EQ(look_up(0x5000, kPage).iov_len, kPage);
    EXPECT_EQ(look_up(0x6000, kPage).iov_len, 0U);
}

TEST_F(TranslationTest, MoreTranslationsKeepWhatOlderChainsUse) {
    const auto before = memory_;
    map(0x5000, kPage, 0);
    EXPECT_TRUE(memory_->keeps(*before));
    renew(MemorySnapshot::Withdrawn::kSome);
    EXPECT_FALSE(memory_->keeps(*before));
    const auto after = memory_;
    map(0x6000, kPage, 0);
    EXPECT_TRUE(memory_->keeps(*after));
    EXPECT_FALSE(memory_->keeps(*before));
    EXPECT_FALSE(before->keeps(*memory_));
}

TEST_F(TranslationTest, ARegionMoreKeepsAndARegionLessDoesNot) {
    const auto two = memory_;
    const auto three = two->with_region(make_region(3 * kGuest, kPage, 0), 8).value();
    EXPECT_TRUE(three->keeps(*two));
    EXPECT_FALSE(two->without_region(first_->layout()).value()->keeps(*two));
}

TEST_F(TranslationTest, PiecesNeedEveryByteAndEveryPermission) {
    map(0x5000, kPage, 4 * kPage);
    map(0x6000, kPage, 2 * kPage);
    EXPECT_EQ(memory_->translate_pieces(GuestAddr{0x5800}, kPage, Access::kReadWrite).size(), 2U);
    EXPECT_TRUE(
        memory_->translate_pieces(GuestAddr{0x5800}, 2 * kPage, Access::kReadWrite).empty());
    map(0x6000, kPage, 2 * kPage, Access::kRead);
    EXPECT_TRUE(memory_->translate_pieces(GuestAddr{0x5800}, kPage, Access::kReadWrite).empty());
    EXPECT_EQ(memory_->translate_pieces(GuestAddr{0x5800}, kPage, Access::kRead).size(), 2U);
    EXPECT_TRUE(memory_->translate_pieces(GuestAddr{0x5800}, 0, Access::kRead).empty());
}

TEST_F(TranslationTest, FindsEachGapAndEachPageOfIt) {
    map(0x5000, kPage, 0);
    MissList misses;
    memory_->find_misses(GuestAddr{0x4100}, 4 * kPage, Access::kRead, misses);
    const std::vector<TranslationMiss> expected = {
        {.iova = 0x4100}, {.iova = 0x6000}, {.iova = 0x7000}, {.iova = 0x8000}};
    EXPECT_EQ(std::vector(misses.all().begin(), misses.all().end()), expected);
}

TEST(MissList, MissesAPageOnceForAllThatIsDoneWithIt) {
    MissList misses;
    EXPECT_TRUE(misses.add({.iova = 0x5010, .access = Access::kRead}));
    EXPECT_TRUE(misses.add({.iova = 0x5ff0, .access = Access::kWrite}));
    EXPECT_TRUE(misses.add({.iova = 0x6000, .access = Access::kRead}));
    const std::vector<TranslationMiss> expected = {{.iova = 0x5010, .access = Access::kReadWrite},
                                                   {.iova = 0x6000, .access = Access::kRead}};
    EXPECT_EQ(std::vector(misses.all().begin(), misses.all().end()), expected);
}

TEST_F(TranslationTest, MissesOfAGiantBufferAreBounded) {
    MissList misses;
    memory_->find_misses(GuestAddr{0}, UINT32_MAX, Access::kWrite, misses);
    EXPECT_TRUE(misses.full());
    EXPECT_EQ(misses.all().back().iova, (MissList::kMax - 1) * kMissStep);
}

TEST_F(TranslationTest, SearchForMissesTakesNoMoreStepsThanAsked) {
    for (uint64_t page = 1; page < 8; ++page) {
        map(0x5000 + page * kPage, kPage, page % 2 * 4 * kPage);
    }
    MissList misses;
    EXPECT_EQ(memory_->find_misses(GuestAddr{0x5000}, 9 * kPage, Access::kRead, misses), 9U);
    EXPECT_EQ(misses.all().size(), 2U);
    misses.clear();
    EXPECT_EQ(memory_->find_misses(GuestAddr{0x5000}, 9 * kPage, Access::kRead, misses, 8), 8U);
    EXPECT_EQ(misses.all().size(), 1U);
}

TEST_F(TranslationTest, NeighboursOfOneRegionArePiecesOfOneWhateverIsAllowed) {
    map(0x5000, kPage, 0, Access::kRead);
    map(0x6000, kPage, kPage, Access::kReadWrite);
    EXPECT_EQ(memory_->translate_pieces(GuestAddr{0x5000}, 2 * kPage, Access::kRead).size(), 1U);
}

TEST_F(TranslationTest, WrongPermissionIsAMiss) {
    map(0x5000, kPage, 0, Access::kRead);
    EXPECT_TRUE(memory_->translates({.iova = 0x5000, .access = Access::kRead}));
    EXPECT_FALSE(memory_->translates({.iova = 0x5000, .access = Access::kWrite}));
    EXPECT_FALSE(memory_->translates({.iova = 0x5000, .access = Access::kReadWrite}));
}

/// Regions of one page each that are neighbours for the front end.
std::vector<MemorySnapshot::RegionPointer> make_small_regions(uint64_t count) {
    std::vector<MemorySnapshot::RegionPointer> regions;
    for (uint64_t i = 0; i < count; ++i) {
        // From the last to the first: Linux maps downwards, so that they are neighbours here too.
        const uint64_t offset = (count - 1 - i) * kPage;
        regions.push_back(make_region(kGuest + 2 * offset, kPage, kFrontend + offset));
    }
    return regions;
}

TEST(TranslationBounds, MappingMayCrossFewRegions) {
    constexpr size_t kMax = MemorySnapshot::kRegionsPerMappingMax;
    const auto memory =
        MemorySnapshot::create(make_small_regions(kMax + 1), 1, kMax + 1, kIommu).value();
    EXPECT_TRUE(memory->covers_target(kFrontend, kMax * kPage));
    EXPECT_TRUE(memory->covers_target(kFrontend + kPage, kMax * kPage));
    EXPECT_FALSE(memory->covers_target(kFrontend, kMax * kPage + 1));
}

TEST(TranslationBounds, RegionsThatComeUnderAMappingDoNotGrowTheTable) {
    constexpr size_t kMax = MemorySnapshot::kRegionsPerMappingMax;
    constexpr size_t kRegions = 200;
    constexpr uint64_t kMappings = 50;
    Iotlb iotlb;
    for (uint64_t i = 0; i < kMappings; ++i) {
        ASSERT_TRUE(iotlb
                        .update({.iova = i * 2 * kRegions * kPage,
                                 .size = kRegions * kPage,
                                 .target = kFrontend,
                                 .access = Access::kReadWrite})
                        .has_value());
    }
    const auto memory = MemorySnapshot::create(make_small_regions(kRegions), 1, kRegions, kIommu)
                            .value()
                            ->with_translations(iotlb, MemorySnapshot::Withdrawn::kNothing);
    EXPECT_EQ(memory->range_count(), kMappings * kMax);
    EXPECT_TRUE(memory->translates({.iova = (kMax - 1) * kPage}));
    EXPECT_FALSE(memory->translates({.iova = kMax * kPage}));
}

TEST(TranslationBounds, RegionsThatAreNeighboursHereStayApart) {
    const auto regions = make_small_regions(16);
    const auto meets = [](const auto& high, const auto& low) {
        return low->data() + kPage == high->data();
    };
    ASSERT_NE(std::ranges::adjacent_find(regions, meets), regions.end());
    Iotlb iotlb;
    ASSERT_TRUE(
        iotlb
            .update(
                {.iova = 0, .size = 16 * kPage, .target = kFrontend, .access = Access::kReadWrite})
            .has_value());
    const auto memory = MemorySnapshot::create(regions, 1, 16, kIommu)
                            .value()
                            ->with_translations(iotlb, MemorySnapshot::Withdrawn::kNothing);
    EXPECT_EQ(memory->range_count(), 16U);
    const auto pieces = memory->translate_pieces(GuestAddr{0}, 16 * kPage, Access::kReadWrite);
    EXPECT_EQ(pieces.size(), 16U);
}

TEST(GuestAddresses, NameRingsByGuestAddress) {
    const auto region = make_region(kGuest, kPage, kFrontend);
    const auto memory = MemorySnapshot::create({region}, 1, 8, {.guest_addresses = true}).value();
    EXPECT_TRUE(memory->translate_frontend(FrontendAddr{kGuest}, kPage).has_value());
    EXPECT_FALSE(memory->translate_frontend(FrontendAddr{kFrontend}, 1).has_value());
    RegionHint hint;
    EXPECT_EQ(memory->translate_prefix(GuestAddr{kGuest}, 1, hint).size(), 1U);
}

TEST(GuestAddresses, TakeNoNoticeOfUserAddresses) {
    const auto first = make_region(kGuest, kPage, 0);
    const auto second = make_region(2 * kGuest, kPage, 0);
    const AddressMode guest{.guest_addresses = true};
    const auto memory = MemorySnapshot::create({first, second}, 1, 8, guest);
    ASSERT_TRUE(memory.has_value());
    EXPECT_EQ(MemorySnapshot::create({first, second}, 1, 8, {}).error(),
              MemoryTableError::kFrontendOverlap);
    const MemoryRegionLayout other_user_address = {.guest_address = GuestAddr{kGuest},
                                                   .size = kPage,
                                                   .frontend_address = FrontendAddr{kGuest}};
    EXPECT_TRUE((*memory)->without_region(other_user_address).has_value());
}

TEST(GuestAddresses, NameTargetsOfTheIotlbToo) {
    const auto region = make_region(kGuest, kPage, kFrontend);
    const auto memory =
        MemorySnapshot::create({region}, 1, 8, {.iommu = true, .guest_addresses = true}).value();
    EXPECT_TRUE(memory->covers_target(kGuest, kPage));
    EXPECT_FALSE(memory->covers_target(kFrontend, kPage));
}

TEST(AddressModes, ChangeWithTheSameRegions) {
    const auto region = make_region(kGuest, kPage, kFrontend);
    const auto plain = MemorySnapshot::create({region}, 1, 8).value();
    RegionHint hint;
    const auto iommu = plain->with_mode(kIommu);
    EXPECT_TRUE(iommu->translate_prefix(GuestAddr{kGuest}, 1, hint).empty());
    EXPECT_EQ(iommu->epoch(), 2U);
    EXPECT_EQ(iommu->with_mode({})->translate_prefix(GuestAddr{kGuest}, 1, hint).size(), 1U);
}

// --- Back to guest physical addresses ----------------------------------------------------------

TEST_F(TranslationTest, EveryByteOfARegionHasItsGuestAddress) {
    RegionHint hint;
    EXPECT_EQ(memory_->guest_address(first_->data(), hint), GuestAddr{kGuest});
    EXPECT_EQ(memory_->guest_address(first_->data() + 16 * kPage - 1, hint),
              GuestAddr{kGuest + 16 * kPage - 1});
    EXPECT_EQ(memory_->guest_address(second_->data() + 5, hint), GuestAddr{2 * kGuest + 5});
    EXPECT_EQ(memory_->guest_address(first_->data() + 7, hint), GuestAddr{kGuest + 7});
}

TEST_F(TranslationTest, BytesOutsideOfRegionsHaveNoGuestAddress) {
    const std::byte elsewhere{};
    RegionHint hint;
    EXPECT_EQ(memory_->guest_address(&elsewhere, hint), std::nullopt);
    EXPECT_EQ(memory_->guest_address(nullptr, hint), std::nullopt);
    EXPECT_EQ(MemorySnapshot::empty()->guest_address(first_->data(), hint), std::nullopt);
}

}  // namespace
}  // namespace outrigger
