// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/poll_allowance.h"

#include <gtest/gtest.h>

namespace outrigger {
namespace {

using namespace std::chrono_literals;
using TimePoint = PollAllowance::TimePoint;

constexpr TimePoint kStart{1h};

TEST(PollAllowance, AllIsNeverHeldBack) {
    PollAllowance allowance(100);

    allowance.spend(1h);

    EXPECT_EQ(allowance.left(kStart), PollAllowance::Duration::max());
}

TEST(PollAllowance, BeginsWithTheShareOfAWindow) {
    PollAllowance allowance(20);

    EXPECT_EQ(allowance.left(kStart), 2ms);
}

TEST(PollAllowance, IsGoneWhenItIsSpent) {
    PollAllowance allowance(20);
    ASSERT_EQ(allowance.left(kStart), 2ms);

    allowance.spend(2ms);

    EXPECT_EQ(allowance.left(kStart), 0ms);
}

TEST(PollAllowance, FillsWithItsShareOfTheTimeThatPasses) {
    PollAllowance allowance(20);
    ASSERT_EQ(allowance.left(kStart), 2ms);
    allowance.spend(2ms);

    EXPECT_EQ(allowance.left(kStart + 1ms), 200us);
}

TEST(PollAllowance, WhatWasOverdrawnIsPaidBackFirst) {
    PollAllowance allowance(50);
    ASSERT_EQ(allowance.left(kStart), 5ms);
    allowance.spend(6ms);

    EXPECT_EQ(allowance.left(kStart + 1ms), 0ms);
    EXPECT_EQ(allowance.left(kStart + 2ms), 0ms);
    EXPECT_EQ(allowance.left(kStart + 3ms), 500us);
}

TEST(PollAllowance, APauseSavesNoMoreThanAWindow) {
    PollAllowance allowance(20);
    ASSERT_EQ(allowance.left(kStart), 2ms);
    allowance.spend(1ms);

    EXPECT_EQ(allowance.left(kStart + 1h), 2ms);
}

// Whatever the looks want, over a second they get their share and the window's start.
TEST(PollAllowance, HoldsItsShareOverTime) {
    PollAllowance allowance(30);
    PollAllowance::Duration looked = 0ms;
    for (TimePoint now = kStart; now < kStart + 1s; now += 30us) {
        const auto look = std::min<PollAllowance::Duration>(allowance.left(now), 100us);
        allowance.spend(look);
        looked += look;
        now += look;
    }

    EXPECT_LE(looked, 303ms);
    EXPECT_GE(looked, 295ms);
}

}  // namespace
}  // namespace outrigger
