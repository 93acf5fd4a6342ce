// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/adaptive_polling.h"

#include <gtest/gtest.h>

namespace outrigger {
namespace {

using namespace std::chrono_literals;

TEST(AdaptivePolling, StartsWithoutPolling) {
    const AdaptivePolling polling(50us);

    EXPECT_EQ(polling.budget(), 0us);
}

TEST(AdaptivePolling, NeverPollsWithMaximumZero) {
    AdaptivePolling polling(0us);

    polling.on_work_after(1us);
    polling.on_work_after(0us);

    EXPECT_EQ(polling.budget(), 0us);
}

TEST(AdaptivePolling, GrowsWhenALongerLookWouldHaveFoundWork) {
    AdaptivePolling polling(50us);

    polling.on_work_after(30us);
    const auto first = polling.budget();
    polling.on_work_after(30us);

    EXPECT_GT(first, 0us);
    EXPECT_GT(polling.budget(), first);
}

TEST(AdaptivePolling, NeverExceedsItsMaximum) {
    AdaptivePolling polling(10us);

    polling.on_work_after(10us);
    polling.on_work_after(10us);
    polling.on_work_after(10us);
    polling.on_work_after(10us);

    EXPECT_EQ(polling.budget(), 10us);
}

TEST(AdaptivePolling, StaysWhenTheLookFoundWork) {
    AdaptivePolling polling(50us);
    polling.on_work_after(20us);
    const auto before = polling.budget();

    polling.on_work_after(before);

    EXPECT_EQ(polling.budget(), before);
}

TEST(AdaptivePolling, GivesUpWhenWorkComesTooLateForAnyLook) {
    AdaptivePolling polling(50us);
    polling.on_work_after(40us);
    polling.on_work_after(40us);
    ASSERT_GT(polling.budget(), 0us);

    polling.on_work_after(51us);
    polling.on_work_after(1s);
    polling.on_work_after(1s);

    EXPECT_EQ(polling.budget(), 0us);
}

TEST(AdaptivePolling, OneLatePauseDoesNotEndALongBudget) {
    AdaptivePolling polling(32us);
    polling.on_work_after(32us);
    polling.on_work_after(32us);
    polling.on_work_after(32us);
    polling.on_work_after(32us);

    polling.on_work_after(1s);

    EXPECT_GT(polling.budget(), 0us);
}

}  // namespace
}  // namespace outrigger
