// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/shared_memory_book.h"

#include <array>
#include <cstdint>

#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

class SharedMemoryBookTest : public testing::Test {
  protected:
    [[nodiscard]] SharedMemoryRange pages(uint64_t first,
                                          uint64_t count,
                                          uint8_t region = kRegion) const {
        return {.region = region, .offset = first * page_, .bytes = count * page_};
    }

    /// Region 0 is not there.
    static constexpr uint8_t kRegion = 1;
    static constexpr uint8_t kOther = 2;

    const uint64_t page_ = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::array<uint64_t, 3> sizes_ = {0, 8 * page_, 8 * page_};
    SharedMemoryBook book_{sizes_};
};

TEST_F(SharedMemoryBookTest, TakesTheWholeOfARegion) {
    EXPECT_TRUE(book_.begin_map(pages(0, 8)));
    EXPECT_EQ(book_.size(), 1U);
}

TEST_F(SharedMemoryBookTest, RefusesWhatReachesBeyondTheRegion) {
    EXPECT_FALSE(book_.begin_map(pages(0, 9)));
    EXPECT_FALSE(book_.begin_map(pages(7, 2)));
    EXPECT_FALSE(book_.begin_map(pages(8, 1)));
    EXPECT_EQ(book_.size(), 0U);
}

TEST_F(SharedMemoryBookTest, RefusesWhatWraps) {
    const uint64_t last_page = UINT64_MAX - (page_ - 1);
    EXPECT_FALSE(book_.begin_map({.region = kRegion, .offset = last_page, .bytes = 2 * page_}));
    EXPECT_FALSE(book_.begin_map({.region = kRegion, .offset = page_, .bytes = last_page}));
}

TEST_F(SharedMemoryBookTest, RefusesRegionsThatAreNotThere) {
    EXPECT_FALSE(book_.begin_map(pages(0, 1, 0)));
    EXPECT_FALSE(book_.begin_map(pages(0, 1, 3)));
    EXPECT_FALSE(book_.begin_map(pages(0, 1, 255)));
}

TEST_F(SharedMemoryBookTest, RefusesPartsOfPages) {
    EXPECT_FALSE(book_.begin_map({.region = kRegion, .offset = 1, .bytes = page_}));
    EXPECT_FALSE(book_.begin_map({.region = kRegion, .offset = 0, .bytes = page_ - 1}));
    EXPECT_FALSE(book_.begin_map({.region = kRegion, .offset = 0, .bytes = page_ + 1}));
    EXPECT_FALSE(book_.begin_map({.region = kRegion, .offset = 0, .bytes = 0}));
}

TEST_F(SharedMemoryBookTest, NeighboursMayTouch) {
    ASSERT_TRUE(book_.begin_map(pages(2, 2)));

    EXPECT_TRUE(book_.begin_map(pages(0, 2)));
    EXPECT_TRUE(book_.begin_map(pages(4, 2)));
    EXPECT_EQ(book_.size(), 3U);
}

TEST_F(SharedMemoryBookTest, RefusesEveryWayToOverlap) {
    ASSERT_TRUE(book_.begin_map(pages(2, 3)));

    EXPECT_FALSE(book_.begin_map(pages(2, 3))) << "the same";
    EXPECT_FALSE(book_.begin_map(pages(0, 3))) << "over its start";
    EXPECT_FALSE(book_.begin_map(pages(4, 3))) << "over its end";
    EXPECT_FALSE(book_.begin_map(pages(3, 1))) << "inside";
    EXPECT_FALSE(book_.begin_map(pages(0, 8))) << "around";
    EXPECT_FALSE(book_.begin_map(pages(2, 1))) << "from its start";
    EXPECT_EQ(book_.size(), 1U);
}

TEST_F(SharedMemoryBookTest, RegionsDoNotMeet) {
    ASSERT_TRUE(book_.begin_map(pages(0, 8)));

    EXPECT_TRUE(book_.begin_map(pages(0, 8, kOther)));
}

TEST_F(SharedMemoryBookTest, EndOfOneRegionIsNotBeforeTheNext) {
    ASSERT_TRUE(book_.begin_map(pages(7, 1)));
    ASSERT_TRUE(book_.begin_map(pages(0, 1, kOther)));

    EXPECT_TRUE(book_.begin_map(pages(6, 1)));
    EXPECT_TRUE(book_.begin_map(pages(1, 1, kOther)));
}

TEST_F(SharedMemoryBookTest, UnmapsWholeMappingsOnly) {
    ASSERT_TRUE(book_.begin_map(pages(2, 3)));

    EXPECT_FALSE(book_.begin_unmap(pages(2, 2)));
    EXPECT_FALSE(book_.begin_unmap(pages(2, 4)));
    EXPECT_FALSE(book_.begin_unmap(pages(3, 2)));
    EXPECT_FALSE(book_.begin_unmap(pages(0, 2)));
    EXPECT_FALSE(book_.begin_unmap(pages(2, 3, kOther)));
    EXPECT_TRUE(book_.begin_unmap(pages(2, 3)));
}

TEST_F(SharedMemoryBookTest, PlaceIsTakenUntilTheMappingIsGone) {
    ASSERT_TRUE(book_.begin_map(pages(0, 2)));
    const auto leaving = book_.begin_unmap(pages(0, 2));
    ASSERT_TRUE(leaving);
    EXPECT_FALSE(book_.begin_map(pages(0, 2)));
    EXPECT_FALSE(book_.begin_unmap(pages(0, 2))) << "it is about to go already";

    book_.erase(*leaving);

    EXPECT_EQ(book_.size(), 0U);
    EXPECT_TRUE(book_.begin_map(pages(0, 1)));
}

TEST_F(SharedMemoryBookTest, WhatStayedMayGoLater) {
    ASSERT_TRUE(book_.begin_map(pages(0, 2)));
    const auto leaving = book_.begin_unmap(pages(0, 2));
    ASSERT_TRUE(leaving);

    book_.keep(*leaving);

    EXPECT_FALSE(book_.begin_map(pages(1, 1)));
    EXPECT_TRUE(book_.begin_unmap(pages(0, 2)));
}

TEST_F(SharedMemoryBookTest, RefusedMappingLeavesItsPlace) {
    const auto entered = book_.begin_map(pages(0, 2));
    ASSERT_TRUE(entered);

    book_.erase(*entered);

    EXPECT_TRUE(book_.begin_map(pages(1, 1)));
}

TEST_F(SharedMemoryBookTest, LateAnswersDoNotTouchWhatCameAfterAReset) {
    const auto old = book_.begin_map(pages(0, 2));
    ASSERT_TRUE(old);
    book_.clear();
    ASSERT_TRUE(book_.begin_map(pages(0, 2)));
    const auto leaving = book_.begin_unmap(pages(0, 2));
    ASSERT_TRUE(leaving);

    book_.erase(*old);
    EXPECT_EQ(book_.size(), 1U);
    book_.keep(*old);
    EXPECT_FALSE(book_.begin_unmap(pages(0, 2))) << "the new one is still about to go";

    book_.erase(*leaving);
    EXPECT_EQ(book_.size(), 0U);
}

TEST_F(SharedMemoryBookTest, AnswersBehindAResetAreIgnored) {
    const auto old = book_.begin_map(pages(0, 2));
    ASSERT_TRUE(old);
    book_.clear();

    book_.erase(*old);
    book_.keep(*old);

    EXPECT_EQ(book_.size(), 0U);
}

}  // namespace
}  // namespace outrigger
