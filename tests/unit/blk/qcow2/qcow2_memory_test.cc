// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_memory.h"

#include <vector>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

TEST(Qcow2Budget, SharesOfManyQueuesStayBelowTheTotal) {
    Qcow2Budget budget;
    std::vector<std::unique_ptr<Qcow2Budget::Share>> shares;
    Qcow2Memory sum;
    for (int queue = 0; queue < 1000; ++queue) {
        shares.push_back(budget.take_share());
        sum.tables += shares.back()->memory().tables;
        sum.clusters += shares.back()->memory().clusters;
        sum.inputs += shares.back()->memory().inputs;
    }
    EXPECT_LE(sum.tables, Qcow2Budget::kTotal.tables);
    EXPECT_LE(sum.clusters, Qcow2Budget::kTotal.clusters);
    EXPECT_LE(sum.inputs, Qcow2Budget::kTotal.inputs);
}

TEST(Qcow2Budget, FirstQueueHasAnEighth) {
    Qcow2Budget budget;
    const auto share = budget.take_share();
    EXPECT_EQ(share->memory().tables, size_t{1} << 20);
    EXPECT_EQ(share->memory().clusters, size_t{4} << 20);
    EXPECT_EQ(share->memory().inputs, size_t{4} << 20);
}

TEST(Qcow2Budget, WhatWasGivenBackIsThereForTheNext) {
    Qcow2Budget budget;
    for (int round = 0; round < 100; ++round) {
        const auto one = budget.take_share();
        const auto two = budget.take_share();
        EXPECT_EQ(one->memory().clusters, size_t{4} << 20);
        EXPECT_LT(two->memory().clusters, one->memory().clusters);
    }
}

}  // namespace
}  // namespace outrigger::blk
