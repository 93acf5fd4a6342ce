// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/latency_meter.h"

#include <gtest/gtest.h>

namespace outrigger {
namespace {

using Time = LatencyMeter::Clock::time_point;

Time at(int64_t nanoseconds) {
    return Time(std::chrono::nanoseconds(nanoseconds));
}

class LatencyMeterTest : public testing::Test {
  protected:
    [[nodiscard]] uint64_t count(uint64_t nanoseconds) const {
        return histogram_.count_of(LatencyHistogram::bucket_of(nanoseconds));
    }

    LatencyMeter meter_;
    LatencyHistogram histogram_;
};

TEST_F(LatencyMeterTest, MeasuresFromTheBatchOfTheRequestToThatOfItsAnswer) {
    meter_.begin_batch(at(1000), 0, 0);
    const int64_t early = meter_.taken_at();
    meter_.begin_batch(at(5000), 1, 0);
    ASSERT_TRUE(meter_.looks_at_each());
    EXPECT_FALSE(meter_.note_answered(meter_.taken_at()));
    EXPECT_FALSE(meter_.note_answered(meter_.taken_at()));
    EXPECT_FALSE(meter_.note_answered(early));
    meter_.end_batch(at(6000), 3, histogram_);
    EXPECT_EQ(count(1000), 2U);
    EXPECT_EQ(count(5000), 1U);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 7000U);
}

TEST_F(LatencyMeterTest, KnowsABatchThatBeganWithNoneInFlightByItsNumber) {
    meter_.begin_batch(at(1000), 0, 10);
    ASSERT_FALSE(meter_.looks_at_each());
    EXPECT_FALSE(meter_.has_answered(10));
    EXPECT_TRUE(meter_.has_answered(13));
    meter_.end_batch(at(3000), 13, histogram_);
    EXPECT_EQ(count(2000), 3U);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 6000U);
    EXPECT_FALSE(meter_.has_answered(13));
}

TEST_F(LatencyMeterTest, LooksAtEachThatIsAnsweredBehindItsBatch) {
    meter_.begin_batch(at(1000), 0, 0);
    const int64_t first = meter_.taken_at();
    meter_.end_batch(at(2000), 1, histogram_);
    // One is left. It may come back before another batch, or in the middle of one.
    ASSERT_TRUE(meter_.looks_at_each());
    EXPECT_FALSE(meter_.note_answered(first));
    EXPECT_TRUE(meter_.has_answered(2));
    meter_.begin_batch(at(4000), 0, 2);
    meter_.end_batch(at(6000), 3, histogram_);
    EXPECT_EQ(count(1000), 1U);
    EXPECT_EQ(count(5000), 1U);
    EXPECT_EQ(count(2000), 1U);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 8000U);
}

TEST_F(LatencyMeterTest, CountsAnAnswerOnce) {
    meter_.begin_batch(at(1000), 1, 0);
    EXPECT_FALSE(meter_.has_answered(0));
    (void)meter_.note_answered(meter_.taken_at());
    EXPECT_TRUE(meter_.has_answered(1));
    meter_.end_batch(at(2000), 1, histogram_);
    EXPECT_FALSE(meter_.has_answered(1));
    meter_.end_batch(at(3000), 1, histogram_);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 1000U);
}

TEST_F(LatencyMeterTest, SaysWhenItIsFull) {
    uint64_t noted = 1;
    while (!meter_.note_answered(static_cast<int64_t>(noted))) {
        ++noted;
        ASSERT_LT(noted, 1000U);
    }
    meter_.end_batch(at(static_cast<int64_t>(noted)), noted, histogram_);
    EXPECT_FALSE(meter_.note_answered(1));
    EXPECT_EQ(histogram_.sum_nanoseconds(), noted * (noted - 1) / 2);
}

TEST_F(LatencyMeterTest, AClockThatIsBehindCountsAsNothing) {
    for (const uint32_t in_flight : {0U, 1U}) {
        meter_.begin_batch(at(1000), in_flight, 0);
        if (meter_.looks_at_each()) {
            (void)meter_.note_answered(meter_.taken_at());
        }
        meter_.end_batch(at(999), 1, histogram_);
    }
    EXPECT_EQ(count(0), 2U);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 0U);
}

}  // namespace
}  // namespace outrigger
