// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/tick_clock.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

/// A machine whose counter goes 2.5 times in a nanosecond, until it is told otherwise.
struct PlayedMachine {
    int64_t nanoseconds_now = 1'000'000'000;
    uint64_t ticks_now = 77;
    uint64_t ticks_in_two = 5;
    uint64_t looks_at_clock = 0;
    uint64_t lost_between = 0;  ///< ticks that pass while the clock is looked at

    void pass(nanoseconds time) {
        nanoseconds_now += time.count();
        ticks_now += static_cast<uint64_t>(time.count()) * ticks_in_two / 2;
    }
};

struct PlayedTicks {
    PlayedMachine* machine;

    [[nodiscard]] uint64_t ticks() const { return machine->ticks_now; }

    [[nodiscard]] std::chrono::steady_clock::time_point time() const {
        ++machine->looks_at_clock;
        machine->ticks_now += machine->lost_between;
        return std::chrono::steady_clock::time_point(nanoseconds(machine->nanoseconds_now));
    }
};

class TickClockTest : public testing::Test {
  protected:
    using Clock = BasicTickClock<PlayedTicks>;

    /// Nanoseconds between what it says and what is so.
    int64_t error() { return clock_.now().time_since_epoch().count() - machine_.nanoseconds_now; }

    void settle() {
        for (int i = 0; i < 3 && !clock_.is_counting(); ++i) {
            machine_.pass(Clock::kMeasuredMin);
            (void)error();
        }
        ASSERT_TRUE(clock_.is_counting());
    }

    PlayedMachine machine_;
    Clock clock_{true, PlayedTicks{&machine_}};
};

TEST_F(TickClockTest, TellsTheTimeByTheCounterOnceItKnowsItsPace) {
    EXPECT_EQ(error(), 0);
    machine_.pass(Clock::kMeasuredMin - nanoseconds(2));
    EXPECT_EQ(error(), 0);
    EXPECT_FALSE(clock_.is_counting());
    machine_.pass(nanoseconds(2));
    EXPECT_EQ(error(), 0);
    EXPECT_TRUE(clock_.is_counting());
    const uint64_t looks = machine_.looks_at_clock;
    for (int i = 0; i < 49; ++i) {
        machine_.pass(milliseconds(1));
        EXPECT_LE(std::abs(error()), 2);
    }
    EXPECT_EQ(machine_.looks_at_clock, looks);
    machine_.pass(milliseconds(2));
    EXPECT_EQ(error(), 0);
    EXPECT_EQ(machine_.looks_at_clock, looks + 1);
    EXPECT_TRUE(clock_.is_counting());
}

TEST_F(TickClockTest, AsksTheClockWhereTheKernelDoesNotCount) {
    Clock clock(false, PlayedTicks{&machine_});
    for (uint64_t i = 1; i < 10; ++i) {
        machine_.pass(milliseconds(20));
        EXPECT_EQ(clock.now().time_since_epoch().count(), machine_.nanoseconds_now);
        EXPECT_EQ(machine_.looks_at_clock, i);
    }
}

TEST_F(TickClockTest, BelievesNoPairThatSomethingElseRanBetween) {
    machine_.lost_between = Clock::kPairTicksMax + 1;
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(error(), 0);
        machine_.pass(Clock::kMeasuredMin);
        EXPECT_FALSE(clock_.is_counting());
    }
    machine_.lost_between = 0;
    settle();
    machine_.lost_between = Clock::kPairTicksMax + 1;
    machine_.pass(Clock::kTrusted);
    EXPECT_EQ(error(), 0);
    EXPECT_FALSE(clock_.is_counting());
}

TEST_F(TickClockTest, CounterThatJumpsIsNotBelieved) {
    for (const int64_t jump : {int64_t{1} << 40, -(int64_t{1} << 20)}) {
        settle();
        machine_.ticks_now += static_cast<uint64_t>(jump);
        EXPECT_EQ(error(), 0) << jump;
        EXPECT_FALSE(clock_.is_counting()) << jump;
        machine_.pass(milliseconds(1));
        EXPECT_EQ(error(), 0) << jump;
    }
}

TEST_F(TickClockTest, CounterOfAnotherPaceIsBelievedWhenItKeepsIt) {
    settle();
    machine_.ticks_in_two = 6;
    machine_.pass(Clock::kTrusted);
    EXPECT_EQ(error(), 0);
    EXPECT_FALSE(clock_.is_counting());
    machine_.pass(Clock::kMeasuredMin);
    EXPECT_EQ(error(), 0);
    EXPECT_TRUE(clock_.is_counting());
    machine_.pass(milliseconds(10));
    EXPECT_LE(std::abs(error()), 2);
}

TEST_F(TickClockTest, CounterThatStandsStillOrSleptIsNotBelieved) {
    settle();
    machine_.nanoseconds_now += 3'000'000'000;
    machine_.ticks_now += 200'000'000;
    EXPECT_EQ(error(), 0);
    EXPECT_FALSE(clock_.is_counting());
    machine_.ticks_in_two = 0;
    for (int i = 0; i < 10; ++i) {
        machine_.pass(milliseconds(100));
        EXPECT_EQ(error(), 0);
        EXPECT_FALSE(clock_.is_counting());
    }
}

/// On this machine, whatever it has.
TEST(SystemTickClockTest, AgreesWithTheClock) {
    TickClock clock(platform::kernel_counts_ticks());
    const auto end = SystemTicks::time() + milliseconds(100);
    uint64_t looks = 0;
    uint64_t wrong = 0;
    while (SystemTicks::time() < end) {
        const auto before = SystemTicks::time();
        const auto told = clock.now();
        const auto after = SystemTicks::time();
        ++looks;
        wrong += told < before - microseconds(20) || told > after + microseconds(20) ? 1U : 0U;
    }
    EXPECT_GT(looks, 0U);
    EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace outrigger
