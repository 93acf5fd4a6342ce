// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/statistics.h"

#include <vector>

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

TEST(Statistics, MedianOfAnOddCountIsTheMiddle) {
    EXPECT_DOUBLE_EQ(median(std::vector{5.0, 1.0, 100.0}), 5.0);
}

TEST(Statistics, MedianOfAnEvenCountLiesBetweenTheTwoInTheMiddle) {
    EXPECT_DOUBLE_EQ(median(std::vector{4.0, 1.0, 2.0, 100.0}), 3.0);
}

TEST(Statistics, OfNothingIsZero) {
    EXPECT_EQ(median({}), 0.0);
    EXPECT_EQ(best({}), 0.0);
    EXPECT_EQ(median_ratio({}, {}), 0.0);
}

TEST(Statistics, BestIsTheLargest) {
    EXPECT_DOUBLE_EQ(best(std::vector{2.0, 7.0, 3.0}), 7.0);
}

TEST(Statistics, NothingToDivideByGivesZero) {
    EXPECT_EQ(ratio(3, 0), 0.0);
    EXPECT_DOUBLE_EQ(ratio(3, 2), 1.5);
}

TEST(Statistics, MedianRatioComparesRoundByRound) {
    // The machine was slow in the second round, for both: no ratio suffers.
    EXPECT_DOUBLE_EQ(median_ratio(std::vector{20.0, 2.0, 30.0}, std::vector{10.0, 1.0, 10.0}), 2.0);
}

TEST(Statistics, MedianRatioIgnoresARoundThatOneSideLacks) {
    EXPECT_DOUBLE_EQ(median_ratio(std::vector{6.0, 100.0}, std::vector{2.0}), 3.0);
}

}  // namespace
}  // namespace outrigger::bench
