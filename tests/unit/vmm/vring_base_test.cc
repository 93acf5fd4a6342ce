// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/vring_base.h"

#include <array>
#include <cstring>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kBytes = 65536;
constexpr uint64_t kFileOffset = 4096;
constexpr uint64_t kGuestStart = 0x10'0000;

class VringBaseTest : public ::testing::Test {
  protected:
    void put(int fd, uint64_t at, const auto& value) {
        ASSERT_EQ(::pwrite(fd, &value, sizeof value, static_cast<off_t>(at)),
                  ssize_t{sizeof value});
    }

    /// What a packed ring of 8 is, with its buffer's head as the specification lays it out.
    [[nodiscard]] Result<uint32_t> packed_base(
        uint16_t used, bool wrap, uint16_t old_used, bool old_wrap, uint16_t flags = 0) {
        put(buffer_.get(), 64 + 8, uint16_t{1});   // version
        put(buffer_.get(), 64 + 10, uint16_t{8});  // desc_num
        put(buffer_.get(), 64 + 16, used);
        put(buffer_.get(), 64 + 18, old_used);
        put(buffer_.get(), 64 + 20, static_cast<uint8_t>(wrap));
        put(buffer_.get(), 64 + 21, static_cast<uint8_t>(old_wrap));
        put(memory_file_.get(), kFileOffset + 16 * uint64_t{old_used % 8U} + 14, flags);
        return packed_base_after_loss({.memory = std::span(&region_, 1),
                                       .descriptor_ring = GuestAddr{kGuestStart},
                                       .size = 8,
                                       .inflight_fd = buffer_.get(),
                                       .offset = 64});
    }

    UniqueFd memory_file_ = create_shared_memory("memory", kBytes + kFileOffset).value();
    UniqueFd buffer_ = create_shared_memory("buffer", 4096).value();
    MemoryRegion region_{.guest_address = GuestAddr{kGuestStart},
                         .bytes = kBytes,
                         .frontend_address = 0x7000'0000,
                         .fd_offset = kFileOffset,
                         .fd = memory_file_.get()};
};

TEST_F(VringBaseTest, APlaceLiesWhollyInARegion) {
    const std::span memory(&region_, 1);
    EXPECT_EQ(find_place(memory, GuestAddr{kGuestStart}, kBytes).offset, 0U);
    EXPECT_NE(find_place(memory, GuestAddr{kGuestStart}, kBytes).region, nullptr);
    EXPECT_EQ(find_place(memory, GuestAddr{kGuestStart}, kBytes + 1).region, nullptr);
    EXPECT_EQ(find_place(memory, GuestAddr{kGuestStart - 1}, 2).region, nullptr);
    EXPECT_EQ(find_place(memory, GuestAddr{kGuestStart + kBytes}, 1).region, nullptr);
    EXPECT_EQ(find_place(memory, GuestAddr{~uint64_t{0}}, 2).region, nullptr);
}

TEST_F(VringBaseTest, ASplitRingGoesOnAtTheUsedIndex) {
    put(memory_file_.get(), kFileOffset + 512 + 2, uint16_t{0xfedc});
    const auto base = split_base_after_loss(std::span(&region_, 1), GuestAddr{kGuestStart + 512});
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, 0xfedcU);
}

TEST_F(VringBaseTest, AUsedRingOutsideOfMemoryIsNotRead) {
    EXPECT_FALSE(
        split_base_after_loss(std::span(&region_, 1), GuestAddr{kGuestStart + kBytes - 3}));
}

TEST_F(VringBaseTest, APackedRingThatNobodyBeganIsFresh) {
    const auto base = packed_base_after_loss({.memory = std::span(&region_, 1),
                                              .descriptor_ring = GuestAddr{kGuestStart},
                                              .size = 8,
                                              .inflight_fd = buffer_.get(),
                                              .offset = 64});
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, kFreshPackedBase);
}

TEST_F(VringBaseTest, APackedRingGoesOnWhereItsBufferIs) {
    EXPECT_EQ(packed_base(5, true, 5, true).value(), 0x8005'8005U);
    EXPECT_EQ(packed_base(5, false, 5, false).value(), 0x0005'0005U);
}

TEST_F(VringBaseTest, AnUpdateThatTheDriverSawHolds) {
    // The descriptor at the old place is used: AVAIL and USED are both the wrap counter.
    constexpr uint16_t kUsed = 1 << 7 | 1 << 15;
    EXPECT_EQ(packed_base(6, true, 5, true, kUsed).value(), 0x8006'8006U);
}

TEST_F(VringBaseTest, AnUpdateThatTheDriverDidNotSeeIsTakenBack) {
    // It is still as the driver made it available: AVAIL alone, or USED alone in odd rounds.
    EXPECT_EQ(packed_base(6, true, 5, true, 1 << 7).value(), 0x8005'8005U);
    EXPECT_EQ(packed_base(6, false, 5, false, 1 << 15).value(), 0x0005'0005U);
    EXPECT_EQ(packed_base(0, false, 7, true, 1 << 7).value(), 0x8007'8007U) << "around the end";
}

TEST_F(VringBaseTest, ADamagedBufferIsRefused) {
    EXPECT_FALSE(packed_base(8, true, 7, true));
    EXPECT_FALSE(packed_base(7, true, 8, true));
    EXPECT_FALSE(packed_base(0xffff, true, 0xffff, true));
}

TEST_F(VringBaseTest, ABufferThatEndsEarlyIsRefused) {
    EXPECT_FALSE(packed_base_after_loss({.memory = std::span(&region_, 1),
                                         .descriptor_ring = GuestAddr{kGuestStart},
                                         .size = 8,
                                         .inflight_fd = buffer_.get(),
                                         .offset = 4090}));
    EXPECT_FALSE(packed_base_after_loss({.memory = std::span(&region_, 1),
                                         .descriptor_ring = GuestAddr{kGuestStart},
                                         .size = 8,
                                         .inflight_fd = buffer_.get(),
                                         .offset = ~uint64_t{0}}));
}

}  // namespace
}  // namespace outrigger::vmm
