// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/busy_time.h"

#include <chrono>
#include <cstdint>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

using std::chrono::nanoseconds;

constexpr BusyTime::Time at(int64_t nanos) {
    return BusyTime::Time(nanoseconds(nanos));
}

TEST(BusyTime, IsNothingAtFirst) {
    const BusyTime busy;

    EXPECT_EQ(busy.until(at(1'000'001)), nanoseconds(0));
}

TEST(BusyTime, CountsTheStretchThatGoesOn) {
    BusyTime busy;
    busy.begin(at(1001));

    EXPECT_EQ(busy.until(at(1001)), nanoseconds(0));
    EXPECT_EQ(busy.until(at(1008)), nanoseconds(7));
}

TEST(BusyTime, StandsStillBetweenStretches) {
    BusyTime busy;
    busy.begin(at(1001));
    busy.end(at(1008));

    EXPECT_EQ(busy.until(at(5000)), nanoseconds(7));
}

TEST(BusyTime, AddsStretchesUp) {
    BusyTime busy;
    busy.begin(at(1001));
    busy.end(at(1008));
    busy.begin(at(3000));
    busy.end(at(3001));
    busy.begin(at(7000));

    EXPECT_EQ(busy.until(at(7005)), nanoseconds(13));
}

TEST(BusyTime, IsNeverNegative) {
    BusyTime busy;
    busy.begin(at(1008));

    EXPECT_EQ(busy.until(at(1001)), nanoseconds(0)) << "the clock was read before it began";
}

TEST(BusyTime, IsRightBeforeTheClockBegan) {
    BusyTime busy;
    busy.begin(at(-1001));
    busy.end(at(-1000));

    EXPECT_EQ(busy.until(at(7)), nanoseconds(1));
}

}  // namespace
}  // namespace outrigger
