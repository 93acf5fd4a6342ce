// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/memory_snapshot.h"

#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger {
namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kRegionsMax = 4;

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

std::shared_ptr<const MemorySnapshot> two_neighbours() {
    return MemorySnapshot::create(
               {make_region(0x10000, kPage, 0x70000), make_region(0x10000 + kPage, kPage, 0x90000)},
               1,
               kRegionsMax)
        .value();
}

bool maps(uint64_t guest, uint64_t size, uint64_t frontend, uint64_t offset) {
    const UniqueFd fd = create_shared_memory("test", 2 * kPage).value();
    return MemoryRegion::map({.guest_address = GuestAddr{guest},
                              .size = size,
                              .frontend_address = FrontendAddr{frontend},
                              .mmap_offset = offset},
                             fd.get())
        .has_value();
}

TEST(MemoryRegion, MapsTheWholeFile) {
    EXPECT_TRUE(maps(0, 2 * kPage, 0, 0));
}

TEST(MemoryRegion, MapsFromAnOffsetThatIsNoPageMultiple) {
    EXPECT_TRUE(maps(0, kPage, 0, 512));
}

TEST(MemoryRegion, RefusesSizeZero) {
    EXPECT_FALSE(maps(0, 0, 0, 0));
}

TEST(MemoryRegion, RefusesOneByteBehindTheEndOfTheFile) {
    EXPECT_FALSE(maps(0, 2 * kPage + 1, 0, 0));
    EXPECT_FALSE(maps(0, kPage, 0, kPage + 1));
}

TEST(MemoryRegion, RefusesEachAddressThatWraps) {
    const uint64_t top = UINT64_MAX - kPage + 1;
    EXPECT_FALSE(maps(top, kPage, 0, 0));
    EXPECT_FALSE(maps(0, kPage, top, 0));
    EXPECT_FALSE(maps(0, kPage, 0, top));
}

TEST(MemoryRegion, RefusesAPipeAndADirectory) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    EXPECT_FALSE(MemoryRegion::map({.size = kPage}, reader.get()).has_value());
    const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY));
    EXPECT_FALSE(MemoryRegion::map({.size = kPage}, directory.get()).has_value());
}

TEST(MemorySnapshot, TranslatesInsideOneRegion) {
    const auto memory = two_neighbours();
    RegionHint hint;
    EXPECT_EQ(memory->translate_prefix(GuestAddr{0x10010}, 16, hint).size(), 16U);
}

TEST(MemorySnapshot, GivesThePrefixWhereARangeCrossesRegions) {
    const auto memory = two_neighbours();
    RegionHint hint;
    EXPECT_EQ(memory->translate_prefix(GuestAddr{0x10000 + kPage - 8}, 24, hint).size(), 8U);
    EXPECT_EQ(memory->translate_prefix(GuestAddr{0x10000 + kPage}, 16, hint).size(), 16U);
}

TEST(MemorySnapshot, GivesNothingOutsideEveryRegion) {
    const auto memory = two_neighbours();
    RegionHint hint;
    EXPECT_TRUE(memory->translate_prefix(GuestAddr{0x10000 - 1}, 1, hint).empty());
    EXPECT_TRUE(memory->translate_prefix(GuestAddr{0x10000 + 2 * kPage}, 1, hint).empty());
    EXPECT_TRUE(memory->translate_prefix(GuestAddr{UINT64_MAX}, 1, hint).empty());
}

TEST(MemorySnapshot, AStaleHintDoesNoHarm) {
    const auto memory = two_neighbours();
    RegionHint hint{.region_index = 17};
    EXPECT_EQ(memory->translate_prefix(GuestAddr{0x10000}, 1, hint).size(), 1U);
    EXPECT_EQ(hint.region_index, 0U);
}

TEST(MemorySnapshot, FrontendAddressesAreTheirOwnSpace) {
    const auto memory = two_neighbours();
    EXPECT_TRUE(memory->translate_frontend(FrontendAddr{0x70000}, kPage).has_value());
    EXPECT_FALSE(memory->translate_frontend(FrontendAddr{0x70000}, kPage + 1).has_value());
    EXPECT_FALSE(memory->translate_frontend(FrontendAddr{0x70000}, 0).has_value());
    EXPECT_FALSE(memory->translate_frontend(FrontendAddr{0x10000}, 1).has_value());
    EXPECT_FALSE(memory->translate_frontend(FrontendAddr{0x70000 - 1}, 1).has_value());
    EXPECT_FALSE(memory->translate_frontend(FrontendAddr{0x70000}, UINT64_MAX).has_value());
}

TEST(MemorySnapshot, RefusesOverlapInGuestAddresses) {
    const auto memory = MemorySnapshot::create(
        {make_region(0, 2 * kPage, 0x100000), make_region(kPage, kPage, 0x200000)}, 1, kRegionsMax);
    EXPECT_EQ(memory.error(), MemoryTableError::kGuestOverlap);
}

TEST(MemorySnapshot, RefusesOverlapInFrontendAddresses) {
    const auto memory = MemorySnapshot::create(
        {make_region(0, 2 * kPage, 0x100000), make_region(0x80000, kPage, 0x100000 + kPage)},
        1,
        kRegionsMax);
    EXPECT_EQ(memory.error(), MemoryTableError::kFrontendOverlap);
}

TEST(MemorySnapshot, RefusesMoreRegionsThanSlots) {
    const auto memory = two_neighbours();
    const auto grown = memory->with_region(make_region(0x80000, kPage, 0x1000), 2);
    EXPECT_EQ(grown.error(), MemoryTableError::kTooManyRegions);
}

TEST(MemorySnapshot, AddingAndRemovingARegionMovesTheEpoch) {
    const auto memory = two_neighbours();
    const auto grown = memory->with_region(make_region(0x80000, kPage, 0x1000), 3).value();
    EXPECT_EQ(grown->epoch(), memory->epoch() + 1);
    const auto shrunk = grown
                            ->without_region({.guest_address = GuestAddr{0x80000},
                                              .size = kPage,
                                              .frontend_address = FrontendAddr{0x1000}})
                            .value();
    EXPECT_EQ(shrunk->regions().size(), 2U);
    EXPECT_EQ(shrunk->epoch(), memory->epoch() + 2);
}

TEST(MemorySnapshot, RemovalMustMatchAddressesAndSize) {
    const auto memory = two_neighbours();
    const MemoryRegionLayout right{.guest_address = GuestAddr{0x10000},
                                   .size = kPage,
                                   .frontend_address = FrontendAddr{0x70000}};
    MemoryRegionLayout wrong_size = right;
    wrong_size.size = kPage - 1;
    MemoryRegionLayout wrong_frontend = right;
    wrong_frontend.frontend_address = FrontendAddr{0x70001};
    EXPECT_EQ(memory->without_region(wrong_size).error(), MemoryTableError::kUnknownRegion);
    EXPECT_EQ(memory->without_region(wrong_frontend).error(), MemoryTableError::kUnknownRegion);
    EXPECT_TRUE(memory->without_region(right).has_value());
}

TEST(MemorySnapshot, ARegionLivesAsLongAsASnapshotThatHoldsIt) {
    auto memory = two_neighbours();
    const std::weak_ptr<const MemoryRegion> region = memory->regions()[0];
    auto shrunk = memory
                      ->without_region({.guest_address = GuestAddr{0x10000},
                                        .size = kPage,
                                        .frontend_address = FrontendAddr{0x70000}})
                      .value();
    EXPECT_FALSE(region.expired());
    memory.reset();
    EXPECT_TRUE(region.expired());
}

}  // namespace
}  // namespace outrigger
