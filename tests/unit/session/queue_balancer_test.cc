// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/queue_balancer.h"

#include <optional>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

constexpr size_t kQueues = 4;

std::optional<QueueMove> plan(const std::vector<double>& busy,
                              const std::vector<QueueLoad>& queues,
                              const std::vector<bool>& rests = std::vector<bool>(kQueues)) {
    return plan_queue_move(busy, queues, rests);
}

// --- One decision --------------------------------------------------------------------------------

TEST(QueueMovePlan, BusiestGivesOneOfTwoBusyQueuesToTheIdlest) {
    const auto move = plan({1.0, 0.3, 0.0}, {{0, 0, 100}, {3, 0, 100}, {1, 1, 50}});
    ASSERT_TRUE(move);

    EXPECT_TRUE(move->queue == 0 || move->queue == 3);
    EXPECT_EQ(move->to, 2U);
}

TEST(QueueMovePlan, QueueThatIsAloneStays) {
    EXPECT_EQ(plan({1.0, 0.0}, {{0, 0, 100}}), std::nullopt);
}

TEST(QueueMovePlan, QueueBesideOnesWithoutWorkStays) {
    EXPECT_EQ(plan({1.0, 0.0}, {{0, 0, 100}, {2, 0, 0}}), std::nullopt);
}

TEST(QueueMovePlan, QueueWithoutWorkIsNotMoved) {
    EXPECT_EQ(plan({1.0, 0.0}, {{2, 0, 0}}), std::nullopt);
}

TEST(QueueMovePlan, TheMoveLeavesTheBusiestLeastBusy) {
    // 0.6, 0.3 and 0.1 of one worker: what is left and what is given come closest with the first.
    EXPECT_EQ(plan({1.0, 0.0}, {{0, 0, 60}, {1, 0, 30}, {2, 0, 10}}),
              (QueueMove{.queue = 0, .to = 1}));
}

TEST(QueueMovePlan, WhatTheIdlestDoesAlreadyCounts) {
    // With 0.3 there the large one would only change places with the others.
    EXPECT_EQ(plan({1.0, 0.3}, {{0, 0, 60}, {1, 0, 30}, {2, 0, 10}, {3, 1, 30}}),
              (QueueMove{.queue = 1, .to = 1}));
}

TEST(QueueMovePlan, WorkersThatAreAboutAsBusyStayAsTheyAre) {
    EXPECT_EQ(plan({0.9, 0.8}, {{0, 0, 45}, {2, 0, 45}, {1, 1, 80}}), std::nullopt);
}

TEST(QueueMovePlan, GainJustBelowATenthIsNone) {
    EXPECT_EQ(plan({0.5, 0.405}, {{0, 0, 90}, {2, 0, 10}, {1, 1, 80}}), std::nullopt);
    EXPECT_EQ(plan({0.5, 0.31}, {{0, 0, 81}, {2, 0, 19}, {1, 1, 80}}), std::nullopt);
}

TEST(QueueMovePlan, GainJustAboveATenthIsOne) {
    EXPECT_EQ(plan({0.5, 0.29}, {{0, 0, 79}, {2, 0, 21}, {1, 1, 80}}),
              (QueueMove{.queue = 2, .to = 1}));
}

TEST(QueueMovePlan, WorkerThatHasTimeLeftIsLeftAlone) {
    const std::vector<QueueLoad> queues{{0, 0, 100}, {2, 0, 100}};
    EXPECT_EQ(plan({0.39, 0.0}, queues), std::nullopt);
    EXPECT_NE(plan({0.41, 0.0}, queues), std::nullopt);
}

TEST(QueueMovePlan, QueueThatRestsIsNotMoved) {
    std::vector<bool> rests(kQueues);
    rests[0] = true;
    EXPECT_EQ(plan({1.0, 0.0}, {{0, 0, 60}, {1, 0, 40}}, rests), (QueueMove{.queue = 1, .to = 1}));
    rests[1] = true;
    EXPECT_EQ(plan({1.0, 0.0}, {{0, 0, 60}, {1, 0, 40}}, rests), std::nullopt);
}

TEST(QueueMovePlan, NoQueueAtAllIsNoMove) {
    EXPECT_EQ(plan({1.0, 0.0}, {}), std::nullopt);
}

// --- Over time -----------------------------------------------------------------------------------

const std::vector<QueueLoad> kTwoOnOne = {{0, 0, 100}, {1, 1, 0}, {2, 0, 100}, {3, 1, 0}};
const std::vector<double> kOneBusy = {1.0, 0.0};

std::optional<QueueMove> sample(QueueBalancer& balancer,
                                const std::vector<double>& busy,
                                const std::vector<QueueLoad>& queues = kTwoOnOne) {
    return balancer.on_sample(busy, queues);
}

/// The sample, counted from 1, that brings a move; 0: none of `count` does.
int samples_until_move(QueueBalancer& balancer,
                       int count,
                       const std::vector<QueueLoad>& queues = kTwoOnOne,
                       const std::vector<double>& busy = kOneBusy) {
    for (int i = 1; i <= count; ++i) {
        if (balancer.on_sample(busy, queues)) {
            return i;
        }
    }
    return 0;
}

TEST(QueueBalancer, MovesAfterSeveralSamplesThatAgree) {
    QueueBalancer balancer(2, kQueues);

    EXPECT_EQ(samples_until_move(balancer, 10), 3);
}

TEST(QueueBalancer, OneBusySampleIsNotEnough) {
    QueueBalancer balancer(2, kQueues);
    EXPECT_FALSE(sample(balancer, {0.0, 0.0}));
    EXPECT_FALSE(sample(balancer, kOneBusy));

    EXPECT_EQ(samples_until_move(balancer, 20, kTwoOnOne, {0.0, 0.0}), 0);
}

TEST(QueueBalancer, TwoEqualQueuesOfWhichNowOneAndNowTheOtherDoesMoreAreNoReasonToWait) {
    QueueBalancer balancer(2, kQueues);
    EXPECT_FALSE(sample(balancer, kOneBusy, {{0, 0, 100}, {2, 0, 90}}));
    EXPECT_FALSE(sample(balancer, kOneBusy, {{0, 0, 60}, {2, 0, 110}}));

    EXPECT_TRUE(sample(balancer, kOneBusy, {{0, 0, 120}, {2, 0, 90}}));
}

TEST(QueueBalancer, NothingMovesWhileAMoveIsUnderWay) {
    QueueBalancer balancer(2, kQueues);
    ASSERT_EQ(samples_until_move(balancer, 3), 3);

    EXPECT_EQ(samples_until_move(balancer, 50), 0);
}

TEST(QueueBalancer, AfterAMoveOthersMayFollowSoonerThanTheMovedOne) {
    QueueBalancer balancer(2, kQueues);
    const std::vector<QueueLoad> before{{0, 0, 100}, {2, 0, 60}};
    EXPECT_EQ(samples_until_move(balancer, 2, before), 0);
    ASSERT_EQ(sample(balancer, kOneBusy, before), (QueueMove{.queue = 2, .to = 1}));
    balancer.on_moved(true);
    // Now all that the guest does is done there.
    const std::vector<QueueLoad> after{{0, 0, 0}, {2, 1, 100}, {3, 1, 100}};
    const std::vector<double> busy{0.0, 1.0};

    EXPECT_EQ(samples_until_move(balancer, 7, after, busy), 0);
    EXPECT_EQ(sample(balancer, busy, after), (QueueMove{.queue = 3, .to = 0}));
}

TEST(QueueBalancer, BalancedQueuesStay) {
    QueueBalancer balancer(2, kQueues);
    const std::vector<QueueLoad> even{{0, 0, 100}, {1, 1, 103}, {2, 0, 0}, {3, 1, 0}};

    EXPECT_EQ(samples_until_move(balancer, 100, even, {0.98, 1.0}), 0);
}

TEST(QueueBalancer, MoveThatCouldNotBeMadeIsNotTriedAgainSoon) {
    QueueBalancer balancer(2, kQueues);
    const std::vector<QueueLoad> one_may_go{{0, 0, 100}, {2, 0, 60}};
    ASSERT_EQ(balancer.on_sample(kOneBusy, one_may_go), std::nullopt);
    ASSERT_EQ(balancer.on_sample(kOneBusy, one_may_go), std::nullopt);
    const auto first = sample(balancer, kOneBusy, one_may_go);
    ASSERT_TRUE(first);
    balancer.on_moved(false);

    std::optional<QueueMove> second;
    for (int i = 0; i < 20 && !second; ++i) {
        second = balancer.on_sample(kOneBusy, one_may_go);
    }
    ASSERT_TRUE(second);
    EXPECT_NE(second->queue, first->queue);
}

TEST(QueueBalancer, IsIdleWhenNoWorkerDoesMuch) {
    QueueBalancer balancer(2, kQueues);
    EXPECT_FALSE(sample(balancer, {0.11, 0.0}));
    EXPECT_FALSE(balancer.is_idle());
    EXPECT_FALSE(sample(balancer, {0.09, 0.09}));
    EXPECT_TRUE(balancer.is_idle());
}

TEST(QueueBalancer, IsNotIdleWhileAMoveIsUnderWay) {
    QueueBalancer balancer(2, kQueues);
    ASSERT_EQ(samples_until_move(balancer, 3), 3);

    EXPECT_FALSE(sample(balancer, {0.0, 0.0}));
    EXPECT_FALSE(balancer.is_idle());
    balancer.on_moved(true);
    EXPECT_FALSE(sample(balancer, {0.0, 0.0}));
    EXPECT_TRUE(balancer.is_idle());
}

TEST(QueueBalancer, ForgottenSamplesDoNotCount) {
    QueueBalancer balancer(2, kQueues);
    ASSERT_EQ(samples_until_move(balancer, 2), 0);
    balancer.forget_samples();

    EXPECT_EQ(samples_until_move(balancer, 10), 3);
}

TEST(QueueBalancer, ImpossibleSharesOfTimeAreCutToPossibleOnes) {
    QueueBalancer balancer(2, kQueues);

    EXPECT_EQ(samples_until_move(balancer, 10, kTwoOnOne, {7.0, -3.0}), 3);
}

}  // namespace
}  // namespace outrigger
