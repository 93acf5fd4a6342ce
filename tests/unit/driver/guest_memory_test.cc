// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/guest_memory.h"

#include <array>

#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::driver {
namespace {

TEST(GuestMemory, AllocationsAreAlignedAndDoNotOverlap) {
    auto memory = GuestMemory::create(0x10000, GuestAddr{0x10000}).value();
    EXPECT_EQ(memory.allocate(3, 1).value(), GuestAddr{0x10000});
    EXPECT_EQ(memory.allocate(16, 16).value(), GuestAddr{0x10010});
    EXPECT_EQ(memory.allocate(1, 4096).value(), GuestAddr{0x11000});
}

TEST(GuestMemory, AllocationFailsAtTheEndOfTheRegion) {
    auto memory = GuestMemory::create(0x1000).value();
    EXPECT_FALSE(memory.allocate(0x1001, 1));
    EXPECT_TRUE(memory.allocate(0x1000, 1));
    EXPECT_FALSE(memory.allocate(1, 1));
}

TEST(GuestMemory, TheFileHoldsWhatIsWritten) {
    GuestMemory memory;
    const auto region = memory.add_region({.guest_address = GuestAddr{0x1000},
                                           .size = 0x2000,
                                           .backing = RegionBacking::kUnlinkedFile,
                                           .file_offset = 0x1000});
    ASSERT_TRUE(region);
    const std::array bytes = {std::byte{1}, std::byte{2}};
    memory.write(GuestAddr{0x1234}, bytes);
    std::array<std::byte, 2> found{};
    ASSERT_EQ(::pread(memory.fd(*region), found.data(), found.size(), 0x1234), 2);
    EXPECT_EQ(found, bytes);
    EXPECT_EQ(memory.description(*region).mmap_offset, 0x1000U);
}

TEST(GuestMemory, APosixObjectHoldsWhatIsWritten) {
    const auto memory =
        GuestMemory::create(0x2000, GuestAddr{0x1000}, RegionBacking::kPosixObject).value();
    const std::array bytes = {std::byte{3}, std::byte{4}};
    memory.write(GuestAddr{0x1234}, bytes);
    std::array<std::byte, 2> found{};
    ASSERT_EQ(::pread(memory.fd(memory.regions().front()), found.data(), found.size(), 0x234), 2);
    EXPECT_EQ(found, bytes);
}

TEST(GuestMemory, RegionsHaveThreeUnrelatedAddresses) {
    GuestMemory memory;
    const auto low = memory.add_region({.guest_address = GuestAddr{0}, .size = 0x1000}).value();
    const auto high =
        memory.add_region({.guest_address = GuestAddr{0x1000}, .size = 0x1000}).value();
    const auto low_user = memory.description(low).user_address;
    const auto high_user = memory.description(high).user_address;
    EXPECT_GT(high_user, low_user + 0x1000);
    EXPECT_EQ(memory.user_address(GuestAddr{0x1010}).value(), FrontendAddr{high_user + 0x10});
    EXPECT_FALSE(memory.user_address(GuestAddr{0x2000}));
}

TEST(GuestMemory, ARangeAcrossTwoRegionsHasNoPointer) {
    GuestMemory memory;
    ASSERT_TRUE(memory.add_region({.guest_address = GuestAddr{0}, .size = 0x1000}));
    ASSERT_TRUE(memory.add_region({.guest_address = GuestAddr{0x1000}, .size = 0x1000}));
    EXPECT_NE(memory.data(GuestAddr{0xff0}, 0x10), nullptr);
    EXPECT_EQ(memory.data(GuestAddr{0xff0}, 0x11), nullptr);
}

TEST(GuestMemory, OverlappingEmptyAndWrappingRegionsAreRefused) {
    auto memory = GuestMemory::create(0x1000, GuestAddr{0x1000}).value();
    EXPECT_FALSE(memory.add_region({.guest_address = GuestAddr{0x1fff}, .size = 0x1000}));
    EXPECT_FALSE(memory.add_region({.guest_address = GuestAddr{0x4000}, .size = 0}));
    EXPECT_FALSE(
        memory.add_region({.guest_address = GuestAddr{0xffff'ffff'ffff'f000}, .size = 0x2000}));
}

TEST(GuestMemory, ARemovedRegionIsGone) {
    auto memory = GuestMemory::create(0x1000, GuestAddr{0x1000}).value();
    const auto region =
        memory.add_region({.guest_address = GuestAddr{0x8000}, .size = 0x1000}).value();
    EXPECT_TRUE(memory.remove_region(region));
    EXPECT_EQ(memory.data(GuestAddr{0x8000}, 1), nullptr);
    EXPECT_FALSE(memory.remove_region(region));
    EXPECT_EQ(memory.regions().size(), 1U);
}

}  // namespace
}  // namespace outrigger::driver
