// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/latency_histogram.h"

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

TEST(LatencyHistogram, EmptyHasNothing) {
    const LatencyHistogram histogram;

    EXPECT_EQ(histogram.count(), 0U);
    EXPECT_EQ(histogram.quantile(0.5), 0U);
    EXPECT_EQ(histogram.max(), 0U);
    EXPECT_EQ(histogram.mean(), 0.0);
}

TEST(LatencyHistogram, SmallValuesAreExact) {
    LatencyHistogram histogram;
    for (uint64_t value = 0; value < 10; ++value) {
        histogram.record(value);
    }

    EXPECT_EQ(histogram.quantile(0.0), 0U);
    EXPECT_EQ(histogram.quantile(0.1), 0U);
    EXPECT_EQ(histogram.quantile(0.11), 1U);
    EXPECT_EQ(histogram.quantile(0.5), 4U);
    EXPECT_EQ(histogram.quantile(1.0), 9U);
    EXPECT_DOUBLE_EQ(histogram.mean(), 4.5);
}

TEST(LatencyHistogram, QuantileLiesInItsBucket) {
    for (const uint64_t value : {31U, 32U, 33U, 63U, 64U, 65U, 1000U, 123'456U, 4'000'000'000U}) {
        LatencyHistogram histogram;
        histogram.record(value);
        histogram.record(LatencyHistogram::kNanosecondsMax);

        const uint64_t found = histogram.quantile(0.5);

        EXPECT_GE(found, value);
        EXPECT_LE(found, value + value / 32) << value;
    }
}

TEST(LatencyHistogram, QuantileIsNeverAboveTheLongest) {
    LatencyHistogram histogram;
    histogram.record(1025);

    EXPECT_EQ(histogram.quantile(0.5), 1025U);
    EXPECT_EQ(histogram.quantile(1.0), 1025U);
}

TEST(LatencyHistogram, OneOfAHundredIsBehindP99) {
    LatencyHistogram histogram;
    for (int i = 0; i < 99; ++i) {
        histogram.record(10);
    }
    histogram.record(20);

    EXPECT_EQ(histogram.quantile(0.99), 10U);
    EXPECT_EQ(histogram.quantile(0.991), 20U);
}

TEST(LatencyHistogram, WhatIsTooLongCountsAsTheLongest) {
    LatencyHistogram histogram;
    histogram.record(UINT64_MAX);
    histogram.record(LatencyHistogram::kNanosecondsMax + 1);

    EXPECT_EQ(histogram.count(), 2U);
    EXPECT_EQ(histogram.quantile(0.5), LatencyHistogram::kNanosecondsMax);
    EXPECT_EQ(histogram.max(), LatencyHistogram::kNanosecondsMax);
}

TEST(LatencyHistogram, MergedCountsAsIfRecordedHere) {
    LatencyHistogram one;
    LatencyHistogram other;
    one.record(1);
    other.record(2);
    other.record(3);

    one.merge(other);

    EXPECT_EQ(one.count(), 3U);
    EXPECT_EQ(one.quantile(0.5), 2U);
    EXPECT_EQ(one.max(), 3U);
    EXPECT_DOUBLE_EQ(one.mean(), 2.0);
}

}  // namespace
}  // namespace outrigger::bench
