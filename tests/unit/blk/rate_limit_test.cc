// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/rate_limit.h"

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

constexpr LimitTime kSecond = 1'000'000'000;

/// The clock is the tests' own.
constexpr LimitTime kNow = 1'000 * kSecond;

// --- parse_rate ----------------------------------------------------------------------------------

TEST(ParseRate, TakesRatesAndBursts) {
    EXPECT_EQ(parse_rate("100"), (Rate{.per_second = 100, .burst = 0}));
    EXPECT_EQ(parse_rate("2K"), (Rate{.per_second = 2048, .burst = 0}));
    EXPECT_EQ(parse_rate("1m:3G"), (Rate{.per_second = 1U << 20, .burst = uint64_t{3} << 30}));
    EXPECT_EQ(parse_rate("0"), Rate{});
}

TEST(ParseRate, RefusesEverythingElse) {
    for (const char* const text : {"",
                                   ":",
                                   "M",
                                   "100:",
                                   ":100",
                                   "-1",
                                   "1 ",
                                   "1:2:3",
                                   "1.5",
                                   "0:5",
                                   "18446744073709551616",
                                   "18446744073709551615K"}) {
        EXPECT_EQ(parse_rate(text), std::nullopt) << text;
    }
}

// --- TokenBucket ---------------------------------------------------------------------------------

TEST(TokenBucket, WithoutARateNothingIsOwed) {
    TokenBucket bucket;
    EXPECT_FALSE(bucket.is_limited());
    EXPECT_LE(bucket.charge(UINT64_MAX, kNow), kNow);
    bucket.set({.per_second = 10, .burst = 1});
    bucket.set({});
    EXPECT_LE(bucket.charge(UINT64_MAX, kNow), kNow);
}

TEST(TokenBucket, AFullBucketHoldsItsBurst) {
    TokenBucket bucket;
    bucket.set({.per_second = 100, .burst = 50});
    for (int i = 0; i < 50; ++i) {
        EXPECT_LE(bucket.charge(1, kNow), kNow) << i;
    }
    EXPECT_EQ(bucket.charge(1, kNow), kNow + kSecond / 100);
    EXPECT_EQ(bucket.charge(1, kNow), kNow + 2 * kSecond / 100);
}

TEST(TokenBucket, WithoutABurstATenthOfASecondFits) {
    TokenBucket bucket;
    bucket.set({.per_second = 100, .burst = 0});
    EXPECT_LE(bucket.charge(10, kNow), kNow);
    EXPECT_GT(bucket.charge(1, kNow), kNow);
}

TEST(TokenBucket, FillsUpWithTimeAndNotBeyondTheBurst) {
    TokenBucket bucket;
    bucket.set({.per_second = 100, .burst = 10});
    EXPECT_LE(bucket.charge(10, kNow), kNow);
    EXPECT_LE(bucket.charge(5, kNow + kSecond / 20), kNow + kSecond / 20) << "5 came since";
    EXPECT_LE(bucket.charge(10, kNow + 60 * kSecond), kNow + 60 * kSecond);
    EXPECT_GT(bucket.charge(1, kNow + 60 * kSecond), kNow + 60 * kSecond);
}

TEST(TokenBucket, ARequestAboveTheBurstIsPaidForAfterwards) {
    TokenBucket bucket;
    bucket.set({.per_second = 1000, .burst = 1});
    EXPECT_EQ(bucket.charge(3001, kNow), kNow + 3 * kSecond);
    EXPECT_EQ(bucket.paid_at(), kNow + 3 * kSecond);
}

TEST(TokenBucket, OverTimeTheRateIsExact) {
    TokenBucket bucket;
    bucket.set({.per_second = 3, .burst = 1});
    LimitTime now = kNow;
    uint64_t passed = 0;
    while (now < kNow + 1000 * kSecond) {
        now = std::max(now, bucket.charge(1, now));
        ++passed;
    }
    EXPECT_NEAR(static_cast<double>(passed), 3001, 1);
}

TEST(TokenBucket, HugeNumbersDoNotWrap) {
    for (const uint64_t rate : {uint64_t{1}, uint64_t{1} << 33, UINT64_MAX / 3, UINT64_MAX}) {
        for (const uint64_t burst : {uint64_t{1}, UINT64_MAX}) {
            TokenBucket bucket;
            bucket.set({.per_second = rate, .burst = burst});
            LimitTime last = INT64_MIN;
            for (int i = 0; i < 100'000; ++i) {
                const LimitTime paid = bucket.charge(UINT64_MAX, kNow);
                ASSERT_GE(paid, last);
                ASSERT_LE(paid, kNow + 24 * 3600 * kSecond) << rate << ' ' << burst;
                last = paid;
            }
        }
    }
}

TEST(TokenBucket, ChargesOfManyThreadsAreAllKept) {
    constexpr int kThreads = 4;
    constexpr int kCharges = 20'000;
    TokenBucket bucket;
    bucket.set({.per_second = 1'000'000, .burst = 1});
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
            for (int charge = 0; charge < kCharges; ++charge) {
                (void)bucket.charge(1, kNow);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(bucket.paid_at(), kNow + (kThreads * kCharges - 1) * int64_t{1000});
}

// --- RateLimiter ---------------------------------------------------------------------------------

TEST(RateLimiter, DirectionsAreApartAndTheTotalIsShared) {
    RateLimiter limiter;
    EXPECT_FALSE(limiter.is_limited());
    limiter.set({.bytes = {.per_second = 1000, .burst = 1000},
                 .read_bytes = {.per_second = 100, .burst = 100}});
    EXPECT_TRUE(limiter.is_limited());
    const Allowance read = limiter.charge(Direction::kRead, 200, kNow);
    EXPECT_LE(read.both, kNow);
    EXPECT_EQ(read.direction, kNow + kSecond);
    const Allowance write = limiter.charge(Direction::kWrite, 900, kNow);
    EXPECT_EQ(write.both, kNow + kSecond / 10);
    EXPECT_LE(write.direction, kNow) << "nothing limits writes alone";
    EXPECT_EQ(limiter.debt(Direction::kRead).direction, kNow + kSecond);
    EXPECT_EQ(limiter.debt(Direction::kRead).both, kNow + kSecond / 10);
}

TEST(RateLimiter, OperationsCountWhateverTheirSize) {
    RateLimiter limiter;
    limiter.set({.operations = {.per_second = 10, .burst = 1},
                 .write_operations = {.per_second = 5, .burst = 1}});
    (void)limiter.charge(Direction::kWrite, 0, kNow);
    const Allowance second = limiter.charge(Direction::kWrite, 1 << 20, kNow);
    EXPECT_EQ(second.both, kNow + kSecond / 10);
    EXPECT_EQ(second.direction, kNow + kSecond / 5);
}

/// Queues as BlkQueue plays them: each goes on when its own charge is paid.
TEST(RateLimiter, QueuesOfALimiterGetTheSameShare) {
    constexpr size_t kQueues = 5;
    RateLimiter limiter;
    limiter.set({.bytes = {.per_second = 1 << 20, .burst = 4096}});
    std::array<LimitTime, kQueues> opens{};
    std::array<uint64_t, kQueues> passed{};
    for (LimitTime now = kNow; now < kNow + 100 * kSecond; now += kSecond / 1000) {
        for (size_t queue = 0; queue < kQueues; ++queue) {
            while (opens[queue] <= now) {
                opens[queue] = limiter.charge(Direction::kWrite, 4096, now).both;
                ++passed[queue];
            }
        }
    }
    const auto [least, most] = std::ranges::minmax(passed);
    EXPECT_LE(most - least, 2U);
    uint64_t sum = 0;
    for (const uint64_t each : passed) {
        sum += each;
    }
    EXPECT_LE(sum, 100U * 256 + kQueues + 1);
    EXPECT_GE(sum, 100U * 256 - kQueues);
}

}  // namespace
}  // namespace outrigger::blk
