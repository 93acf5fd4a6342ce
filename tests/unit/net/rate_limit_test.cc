// SPDX-License-Identifier: Apache-2.0
#include "devices/net/rate_limit.h"

#include <gtest/gtest.h>

namespace outrigger::net {
namespace {

using std::chrono::milliseconds;

const RateLimit::Clock::time_point kStart{std::chrono::hours(1)};

TEST(RateLimitTest, WithoutOneEverythingPasses) {
    RateLimit limit;
    limit.take(1'000'000'000, kStart);
    EXPECT_LE(limit.free_at(), kStart);
}

TEST(RateLimitTest, BurstIsATenthOfASecond) {
    RateLimit limit(1000);
    for (int i = 0; i <= 100; ++i) {
        ASSERT_LE(limit.free_at(), kStart) << i;
        limit.take(1, kStart);
    }
    EXPECT_EQ(limit.free_at(), kStart + milliseconds(1));
}

TEST(RateLimitTest, WhatWasNotUsedIsNotSavedUp) {
    RateLimit limit(1000);
    limit.take(1, kStart);
    const auto later = kStart + std::chrono::hours(1);
    limit.take(200, later);
    EXPECT_EQ(limit.free_at(), later + milliseconds(100));
}

TEST(RateLimitTest, LargeOneTakesItsTime) {
    RateLimit limit(1000);
    limit.take(65'554, kStart);
    EXPECT_EQ(limit.free_at(), kStart + milliseconds(65'454));
}

TEST(RateLimitTest, SlowestOneLastsForHours) {
    RateLimit limit(1);
    limit.take(65'554, kStart);
    EXPECT_GT(limit.free_at(), kStart + std::chrono::hours(18));
}

TEST(FrameLimitsTest, BothHold) {
    FrameLimits limits({.bytes = 10'000, .frames = 1000});
    limits.take({.bytes = 2000}, kStart);
    EXPECT_EQ(limits.free_at(), kStart + milliseconds(100));
    FrameLimits frames({.frames = 10});
    frames.take({.bytes = 60}, kStart);
    EXPECT_EQ(frames.free_at(), kStart);
    frames.take({.bytes = 60}, kStart);
    EXPECT_EQ(frames.free_at(), kStart + milliseconds(100));
}

TEST(FrameLimitsTest, FrameThatIsToBeCutIsAsManyAsItBecomes) {
    FrameLimits limits({.frames = 100});
    Frame frame{.bytes = 14'000};
    frame.offload.segmentation = Segmentation::kTcp4;
    frame.offload.segment_bytes = 1000;
    limits.take(frame, kStart);
    EXPECT_EQ(limits.free_at(), kStart + milliseconds(40));
}

}  // namespace
}  // namespace outrigger::net
