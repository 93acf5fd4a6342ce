// SPDX-License-Identifier: Apache-2.0
/// How long the requests of a ring took: each is in the histogram once, with the time of the batch
/// that took it, whether it is answered in that batch or behind others.
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/queue_metrics.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 128;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kDataRegion = 0x100000;

class RingLatencyTest : public testing::Test {
  protected:
    void SetUp() override {
        VirtqueueConfig config = ring_.config();
        config.measures_latency = true;
        config.metrics = &metrics_;
        queue_ = Virtqueue::create(config, VringBase{0}, memory_.snapshot(1)).value();
    }

    void begin(int64_t microseconds) { queue_->begin_batch(at(microseconds)); }

    void take(size_t count) {
        for (size_t i = 0; i < count; ++i) {
            const auto head = static_cast<uint16_t>(next_head_++ % kSize);
            ring_.set_descriptor(head, {.address = kDataRegion, .length = 8, .flags = kWrite});
            ring_.offer(head);
            auto chain = queue_->pop();
            ASSERT_TRUE(chain.has_value());
            chains_.push_back(std::move(*chain));
        }
    }

    /// The chain that was taken as `number`th of those that are out.
    void answer(size_t number) {
        chains_.at(number).complete(0);
        chains_.erase(chains_.begin() + static_cast<ptrdiff_t>(number));
    }

    void end(int64_t microseconds) {
        (void)queue_->publish();
        ASSERT_TRUE(queue_->has_unmeasured());
        queue_->end_batch(at(microseconds));
        EXPECT_FALSE(queue_->has_unmeasured());
    }

    [[nodiscard]] uint64_t count(uint64_t microseconds) const {
        return metrics_.latency.count_of(LatencyHistogram::bucket_of(1000 * microseconds));
    }

    [[nodiscard]] uint64_t count_all() const {
        uint64_t all = 0;
        for (size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
            all += metrics_.latency.count_of(bucket);
        }
        return all;
    }

    static LatencyMeter::Clock::time_point at(int64_t microseconds) {
        return LatencyMeter::Clock::time_point(std::chrono::microseconds(microseconds));
    }

    GuestMemory memory_{{{0, 0x10000}, {kDataRegion, 0x10000}}};
    SplitRing ring_{memory_, kSize, kRing};
    QueueMetrics metrics_;
    std::unique_ptr<Virtqueue> queue_;
    std::vector<DescriptorChain> chains_;
    size_t next_head_ = 0;
};

TEST_F(RingLatencyTest, ABatchThatIsAnsweredAtOnce) {
    begin(100);
    take(3);
    EXPECT_FALSE(queue_->has_unmeasured());
    for (int i = 0; i < 3; ++i) {
        answer(0);
    }
    end(120);
    EXPECT_EQ(count(20), 3U);
    EXPECT_EQ(metrics_.latency.sum_nanoseconds(), 60'000U);
}

TEST_F(RingLatencyTest, WhatIsLeftCountsFromItsOwnBatch) {
    begin(100);
    take(3);
    answer(1);
    end(110);  // two are out
    begin(200);
    take(2);
    answer(0);  // of the first batch
    answer(2);  // of this one
    end(240);
    answer(1);  // of the second batch, in none
    answer(0);
    end(1000);
    EXPECT_EQ(count(10), 1U);
    EXPECT_EQ(count(140), 1U);
    EXPECT_EQ(count(40), 1U);
    EXPECT_EQ(count(800), 1U);
    EXPECT_EQ(count(900), 1U);
    EXPECT_EQ(metrics_.latency.sum_nanoseconds(), 1'890'000U);
    begin(2000);  // and with none out it is as at first
    take(1);
    answer(0);
    end(2003);
    EXPECT_EQ(count(3), 1U);
}

/// As where the host answers between two turns of the loop.
TEST_F(RingLatencyTest, WhatIsAnsweredBeforeTheNextBatchBeginsIsNotLost) {
    begin(100);
    take(3);
    (void)queue_->publish();
    EXPECT_FALSE(queue_->has_unmeasured());
    answer(0);
    answer(0);
    begin(200);
    take(1);
    answer(0);
    answer(0);
    end(240);
    EXPECT_EQ(count(140), 3U);
    EXPECT_EQ(count(40), 1U);
    EXPECT_EQ(metrics_.latency.sum_nanoseconds(), 460'000U);
}

/// As where frames come one by one, and are published together.
TEST_F(RingLatencyTest, ManyBatchesThatArePublishedOnceAreAllCounted) {
    constexpr size_t kBatches = 100;
    for (size_t i = 0; i < kBatches; ++i) {
        begin(static_cast<int64_t>(100 + i));
        take(1);
        answer(0);
    }
    end(1100);
    EXPECT_EQ(count_all(), kBatches);
}

TEST_F(RingLatencyTest, AnswersOfMoreBatchesThanThereIsRoomFor) {
    constexpr size_t kBatches = 100;
    for (size_t i = 0; i < kBatches; ++i) {
        begin(static_cast<int64_t>(i));
        take(1);
    }
    for (size_t i = 0; i < kBatches; ++i) {
        answer(0);
    }
    (void)queue_->publish();
    queue_->end_batch(at(1'000'000));
    EXPECT_EQ(count_all(), kBatches);
}

}  // namespace
}  // namespace outrigger::test
