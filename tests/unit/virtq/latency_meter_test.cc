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
    meter_.begin_batch(at(1000));
    const int64_t early = meter_.taken_at();
    meter_.begin_batch(at(5000));
    EXPECT_FALSE(meter_.note_answered(meter_.taken_at()));
    EXPECT_FALSE(meter_.note_answered(meter_.taken_at()));
    EXPECT_FALSE(meter_.note_answered(early));
    meter_.end_batch(at(6000), histogram_);
    EXPECT_EQ(count(1000), 2U);
    EXPECT_EQ(count(5000), 1U);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 7000U);
}

TEST_F(LatencyMeterTest, CountsAnAnswerOnce) {
    meter_.begin_batch(at(1000));
    EXPECT_FALSE(meter_.has_answered());
    (void)meter_.note_answered(meter_.taken_at());
    EXPECT_TRUE(meter_.has_answered());
    meter_.end_batch(at(2000), histogram_);
    EXPECT_FALSE(meter_.has_answered());
    meter_.end_batch(at(3000), histogram_);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 1000U);
}

TEST_F(LatencyMeterTest, SaysWhenItIsFull) {
    int noted = 1;
    while (!meter_.note_answered(noted)) {
        ++noted;
        ASSERT_LT(noted, 1000);
    }
    meter_.end_batch(at(noted), histogram_);
    EXPECT_FALSE(meter_.note_answered(1));
    EXPECT_EQ(histogram_.sum_nanoseconds(), static_cast<uint64_t>(noted * (noted - 1) / 2));
}

TEST_F(LatencyMeterTest, AClockThatIsBehindCountsAsNothing) {
    meter_.begin_batch(at(1000));
    (void)meter_.note_answered(meter_.taken_at());
    meter_.end_batch(at(999), histogram_);
    EXPECT_EQ(count(0), 1U);
    EXPECT_EQ(histogram_.sum_nanoseconds(), 0U);
}

}  // namespace
}  // namespace outrigger
