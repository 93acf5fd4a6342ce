// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/byte_quota.h"

#include <gtest/gtest.h>

namespace outrigger::rng {
namespace {

using namespace std::chrono_literals;

constexpr ByteQuota::TimePoint kStart{1h};

TEST(ByteQuota, StartsFull) {
    ByteQuota quota(1000, 1000ms, kStart);
    EXPECT_EQ(quota.available(kStart), 1000U);
}

TEST(ByteQuota, FillsEvenly) {
    ByteQuota quota(1000, 1000ms, kStart);
    quota.take(quota.available(kStart));
    EXPECT_EQ(quota.available(kStart), 0U);
    EXPECT_EQ(quota.available(kStart + 250ms), 250U);
}

TEST(ByteQuota, NeverHoldsMoreThanOnePeriod) {
    ByteQuota quota(1000, 1000ms, kStart);
    EXPECT_EQ(quota.available(kStart + 1h), 1000U);
}

TEST(ByteQuota, KeepsFractionsOfABytesTime) {
    // One byte every 100 ms, asked every 60 ms: 600 ms must make 6 bytes, not 0 or 5.
    ByteQuota quota(10, 1000ms, kStart);
    quota.take(10);
    uint64_t bytes = 0;
    for (auto now = kStart; now <= kStart + 600ms; now += 60ms) {
        const uint64_t available = quota.available(now);
        quota.take(available);
        bytes += available;
    }
    EXPECT_EQ(bytes, 6U);
}

TEST(ByteQuota, TellsWhenBytesWillBeThere) {
    ByteQuota quota(1000, 1000ms, kStart);
    quota.take(1000);
    const auto then = quota.available_at(64);
    EXPECT_EQ(then, kStart + 64ms);
    EXPECT_LT(quota.available(then - 1ns), 64U);
    EXPECT_GE(quota.available(then), 64U);
}

TEST(ByteQuota, WaitsForNoMoreThanItCanHold) {
    ByteQuota quota(10, 1000ms, kStart);
    quota.take(10);
    EXPECT_EQ(quota.available_at(64), kStart + 1000ms);
}

TEST(ByteQuota, HugeNumbersDoNotOverflow) {
    ByteQuota quota(UINT64_MAX, 24h, kStart);
    quota.take(quota.available(kStart));
    EXPECT_EQ(quota.available(kStart + 12h), UINT64_MAX / 2);
}

TEST(ByteQuota, AnotherLimitGivesNothingAtOnce) {
    ByteQuota quota(100, 1000ms, kStart);
    quota.take(100);
    quota.change(1000, 1000ms, kStart + 100ms);
    EXPECT_EQ(quota.available(kStart + 100ms), 10U) << "what came in until then";
    EXPECT_EQ(quota.available(kStart + 200ms), 110U);
    EXPECT_EQ(quota.available(kStart + 2000ms), 1000U);
}

TEST(ByteQuota, ALowerLimitTakesAwayWhatIsAboveIt) {
    ByteQuota quota(1000, 1000ms, kStart);
    quota.change(10, 500ms, kStart);
    EXPECT_EQ(quota.available(kStart), 10U);
    quota.take(10);
    EXPECT_EQ(quota.available(kStart + 250ms), 5U);
}

TEST(ByteQuota, AClockThatStandsStillGivesNothing) {
    ByteQuota quota(1000, 1000ms, kStart);
    quota.take(1000);
    EXPECT_EQ(quota.available(kStart - 1s), 0U);
}

}  // namespace
}  // namespace outrigger::rng
