// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/held_ranges.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

using Range = HeldRanges::Range;
using Ranges = std::vector<Range>;

constexpr uint64_t kEnd = INT64_MAX;

Ranges after(const Ranges& wishes) {
    HeldRanges held;
    for (const Range& wish : wishes) {
        held.set(wish);
    }
    return {held.all().begin(), held.all().end()};
}

TEST(HeldRanges, UnlockInTheMiddleLeavesBothEnds) {
    EXPECT_EQ(after({{0, 9, F_WRLCK}, {4, 5, F_UNLCK}}),
              (Ranges{{0, 3, F_WRLCK}, {6, 9, F_WRLCK}}));
}

TEST(HeldRanges, AnotherTypeReplacesAPart) {
    EXPECT_EQ(after({{0, kEnd, F_WRLCK}, {5, kEnd, F_RDLCK}}),
              (Ranges{{0, 4, F_WRLCK}, {5, kEnd, F_RDLCK}}));
}

TEST(HeldRanges, NeighboursOfOneTypeAreOne) {
    EXPECT_EQ(after({{5, 9, F_RDLCK}, {0, 4, F_RDLCK}}), (Ranges{{0, 9, F_RDLCK}}));
}

TEST(HeldRanges, NeighboursOfTwoTypesAreTwo) {
    EXPECT_EQ(after({{5, 9, F_RDLCK}, {0, 4, F_WRLCK}}).size(), 2U);
}

TEST(HeldRanges, ALockOverManyIsOne) {
    EXPECT_EQ(after({{0, 1, F_RDLCK}, {4, 5, F_WRLCK}, {8, 9, F_RDLCK}, {0, 20, F_RDLCK}}),
              (Ranges{{0, 20, F_RDLCK}}));
}

TEST(HeldRanges, UnlockOfAllLeavesNothing) {
    EXPECT_EQ(after({{3, 9, F_WRLCK}, {0, kEnd, F_UNLCK}}), Ranges());
}

TEST(HeldRanges, UnlockOfTheFirstByteTouchesNoOther) {
    EXPECT_EQ(after({{0, 1, F_WRLCK}, {0, 0, F_UNLCK}}), (Ranges{{1, 1, F_WRLCK}}));
}

TEST(HeldRanges, KnowsWhetherAnyByteIsLocked) {
    HeldRanges held;
    held.set({.start = 3, .end = 9, .type = F_RDLCK});
    EXPECT_TRUE(held.has_any(0, 3));
    EXPECT_TRUE(held.has_any(9, 20));
    EXPECT_TRUE(held.has_any(5, 5));
    EXPECT_FALSE(held.has_any(0, 2));
    EXPECT_FALSE(held.has_any(10, kEnd));
}

}  // namespace
}  // namespace outrigger::fs
