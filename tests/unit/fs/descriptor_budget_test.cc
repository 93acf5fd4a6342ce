// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/descriptor_budget.h"

#include <cstdint>
#include <memory>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

/// A share whose guest takes what it gets.
class Guest final {
  public:
    explicit Guest(DescriptorBudget& budget) : part_(budget, [this] { return held_; }) {}

    /// How many of them it got.
    uint64_t take(uint64_t wanted) {
        uint64_t got = 0;
        while (got < wanted && part_.has_room(held_)) {
            ++held_;
            ++got;
        }
        return got;
    }

    void give_back(uint64_t count) { held_ -= count; }

    [[nodiscard]] bool has_room(uint64_t count) const { return part_.has_room(held_, count); }

    [[nodiscard]] uint64_t part_size() const { return part_.size(); }

  private:
    uint64_t held_ = 0;
    DescriptorBudget::Part part_;
};

TEST(DescriptorBudget, OneShareHasAll) {
    DescriptorBudget budget(100);
    Guest guest(budget);
    EXPECT_EQ(guest.part_size(), 100U);
    EXPECT_EQ(guest.take(1000), 100U);
    guest.give_back(1);
    EXPECT_EQ(guest.take(1000), 1U);
}

TEST(DescriptorBudget, HalfIsForWhoeverNeedsMore) {
    DescriptorBudget budget(100);
    Guest one(budget);
    Guest two(budget);
    EXPECT_EQ(one.part_size(), 25U);
    EXPECT_EQ(one.take(1000), 75U);
    EXPECT_EQ(two.take(1000), 25U);
    one.give_back(10);
    EXPECT_EQ(two.take(1000), 10U);
    EXPECT_EQ(one.take(1000), 0U);
}

TEST(DescriptorBudget, WhoHasAllOfTheOtherHalfMakesRoomForWhoComesLater) {
    DescriptorBudget budget(100);
    Guest one(budget);
    EXPECT_EQ(one.take(90), 90U);
    Guest late(budget);
    // It holds more than what is not the other's, and gets no more.
    EXPECT_EQ(one.take(1), 0U);
    EXPECT_EQ(late.take(1000), 10U);
    one.give_back(5);
    EXPECT_EQ(one.take(1), 0U);
    EXPECT_EQ(late.take(1000), 5U);
    one.give_back(20);
    EXPECT_EQ(one.take(1000), 10U);  // 75: the late one has 15, and 10 more are its own
    EXPECT_EQ(late.take(1000), 10U);
}

TEST(DescriptorBudget, AWholeStateIsAskedForAtOnce) {
    DescriptorBudget budget(100);
    const Guest one(budget);
    Guest two(budget);
    EXPECT_TRUE(one.has_room(75));
    EXPECT_FALSE(one.has_room(76));
    EXPECT_EQ(two.take(40), 40U);
    EXPECT_TRUE(one.has_room(60));
    EXPECT_FALSE(one.has_room(61));
}

TEST(DescriptorBudget, AShareThatLeavesLeavesItsPart) {
    DescriptorBudget budget(100);
    Guest one(budget);
    auto two = std::make_unique<Guest>(budget);
    EXPECT_EQ(two->take(30), 30U);
    EXPECT_EQ(one.take(1000), 70U);
    two.reset();
    EXPECT_EQ(one.part_size(), 100U);
    EXPECT_EQ(one.take(1000), 30U);
}

}  // namespace
}  // namespace outrigger::fs
