// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/latency_histogram.h"

#include <gtest/gtest.h>

namespace outrigger {
namespace {

TEST(LatencyHistogram, BucketsFollowOneAnother) {
    uint64_t begin = 0;
    for (size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
        const uint64_t end = LatencyHistogram::end_of(bucket);
        ASSERT_GT(end, begin);
        EXPECT_EQ(LatencyHistogram::bucket_of(begin), bucket);
        EXPECT_EQ(LatencyHistogram::bucket_of(end - 1), bucket);
        begin = end;
    }
    EXPECT_EQ(begin, LatencyHistogram::kNanosecondsMax);
}

TEST(LatencyHistogram, BucketsAreNarrow) {
    for (size_t bucket = LatencyHistogram::kRowBuckets; bucket < LatencyHistogram::kBuckets;
         ++bucket) {
        const uint64_t begin = LatencyHistogram::end_of(bucket - 1);
        EXPECT_LE((LatencyHistogram::end_of(bucket) - begin) * 16, begin);
    }
}

TEST(LatencyHistogram, PowersOfTwoAreEnds) {
    for (uint64_t power = 256; power < LatencyHistogram::kNanosecondsMax; power *= 2) {
        EXPECT_EQ(LatencyHistogram::end_of(LatencyHistogram::bucket_of(power - 1)), power);
    }
}

TEST(LatencyHistogram, WhatIsTooLongIsInTheLastBucket) {
    LatencyHistogram histogram;
    histogram.add(LatencyHistogram::kNanosecondsMax);
    histogram.add(UINT64_MAX / 4);
    EXPECT_EQ(histogram.count_of(LatencyHistogram::kBuckets - 1), 2U);
}

TEST(LatencyHistogram, AddsManyAtOnce) {
    LatencyHistogram histogram;
    histogram.add(1000, 7);
    histogram.add(0);
    EXPECT_EQ(histogram.count_of(LatencyHistogram::bucket_of(1000)), 7U);
    EXPECT_EQ(histogram.count_of(0), 1U);
    EXPECT_EQ(histogram.sum_nanoseconds(), 7000U);
}

}  // namespace
}  // namespace outrigger
