// SPDX-License-Identifier: Apache-2.0
/// Several frames at once: what is written, and what is said of it.
#include "devices/net/receive_queue.h"

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::net {
namespace {

using test::GuestMemory;
using test::PackedRing;
using test::SplitRing;
using test::UsedElement;
using Outcome = ReceiveQueue::Outcome;

constexpr uint16_t kSize = 16;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kData = 0x4000;
constexpr uint64_t kBufferBytesMax = 0x400;

struct RingRow {
    bool packed = false;
    bool in_order = false;
};

class ReceiveQueueTest : public testing::TestWithParam<RingRow> {
  protected:
    void start(const BufferFormat& format = {.merges = true}) {
        VirtqueueConfig config = GetParam().packed ? packed_.config() : split_.config();
        config.in_order = GetParam().in_order;
        const uint32_t base = GetParam().packed ? 0x8000'8000 : 0;
        ring_ = Virtqueue::create(config, VringBase{base}, memory_.snapshot()).value();
        queue_.start(*ring_, format);
    }

    void TearDown() override { queue_.stop(); }

    static uint64_t address_of(uint16_t buffer) { return kData + kBufferBytesMax * buffer; }

    /// Buffers are numbered from 0.
    void offer(uint32_t bytes) {
        const uint16_t buffer = offered_++;
        if (GetParam().packed) {
            packed_.offer(
                buffer, {{.address = address_of(buffer), .length = bytes, .flags = test::kWrite}});
        } else {
            split_.set_descriptor(
                buffer,
                {.address = address_of(buffer), .length = bytes, .flags = test::kWrite, .next = 0});
            split_.offer(buffer);
        }
    }

    void offer(uint32_t bytes, int count) {
        for (int i = 0; i < count; ++i) {
            offer(bytes);
        }
    }

    /// One that is nowhere in memory: the ring breaks.
    void offer_nonsense() {
        if (GetParam().packed) {
            packed_.offer(kSize - 1,
                          {{.address = ~uint64_t{0xfff}, .length = 64, .flags = test::kWrite}});
        } else {
            split_.offer(kSize);
        }
    }

    ReceiveQueue::Written write_all(std::vector<std::string> texts) {
        std::vector<iovec> pieces;
        pieces.reserve(texts.size());
        std::vector<Frame> frames;
        for (std::string& text : texts) {
            pieces.push_back({.iov_base = text.data(), .iov_len = text.size()});
            frames.push_back({.pieces = std::span(&pieces.back(), 1), .bytes = text.size()});
        }
        return queue_.write_all(frames);
    }

    /// What came back behind the last that was asked for: the bytes, header and all, or how long
    /// they are.
    std::vector<std::string> take_used() {
        (void)ring_->publish();
        std::vector<std::string> used;
        while (is_used(taken_)) {
            const UsedElement element =
                GetParam().packed ? packed_.used(taken_) : split_.used(taken_);
            EXPECT_EQ(element.id, taken_);
            used.push_back(memory_.read(address_of(taken_), element.length));
            ++taken_;
        }
        return used;
    }

    [[nodiscard]] bool is_used(uint16_t index) const {
        return GetParam().packed ? index < kSize && packed_.is_used(index, true)
                                 : split_.used_index() > index;
    }

    static std::string with_header(char buffers, const std::string& bytes) {
        return std::string(10, '\0') + buffers + '\0' + bytes;
    }

    GuestMemory memory_{{{0, 0x10000}}};
    SplitRing split_{memory_, kSize, kRing};
    PackedRing packed_{memory_, kSize, kRing};
    std::unique_ptr<Virtqueue> ring_;
    ReceiveQueue queue_;
    uint16_t offered_ = 0;
    uint16_t taken_ = 0;
};

const std::string kLong(150, 'l');

TEST_P(ReceiveQueueTest, FramesThatFitHaveABufferEach) {
    start();
    offer(100, 4);
    const auto written = write_all({"one", std::string(88, '2'), "three"});
    EXPECT_EQ(written.count, 3U);
    EXPECT_EQ(written.outcome, Outcome::kWritten);
    EXPECT_EQ(
        take_used(),
        (std::vector{
            with_header(1, "one"), with_header(1, std::string(88, '2')), with_header(1, "three")}));
    EXPECT_EQ(ring_->in_flight(), 0U);
}

TEST_P(ReceiveQueueTest, AsManyAsThereMayBeAreWrittenTogether) {
    start();
    offer(100, ReceiveQueue::kTogether);
    const auto written = write_all(std::vector<std::string>(ReceiveQueue::kTogether, "frame"));
    EXPECT_EQ(written.count, ReceiveQueue::kTogether);
    EXPECT_EQ(written.outcome, Outcome::kWritten);
    EXPECT_EQ(take_used().size(), ReceiveQueue::kTogether);
}

/// It would go to the guest twice.
TEST_P(ReceiveQueueTest, FrameOverSeveralBuffersIsCounted) {
    start();
    offer(100, 4);
    const auto written = write_all({"one", kLong, "three"});
    EXPECT_EQ(written.count, 2U);
    EXPECT_EQ(written.outcome, Outcome::kWritten);
    EXPECT_EQ(
        take_used(),
        (std::vector{
            with_header(1, "one"), with_header(2, std::string(88, 'l')), std::string(62, 'l')}));
    EXPECT_EQ(write_all({"three"}).count, 1U);
    EXPECT_EQ(take_used(), std::vector{with_header(1, "three")});
}

TEST_P(ReceiveQueueTest, FirstFrameOverSeveralBuffersIsCounted) {
    start();
    offer(100, 3);
    const auto written = write_all({kLong, "two"});
    EXPECT_EQ(written.count, 1U);
    EXPECT_EQ(written.outcome, Outcome::kWritten);
    EXPECT_EQ(take_used().size(), 2U);
}

TEST_P(ReceiveQueueTest, FramesWithoutABufferAreNotCounted) {
    start();
    offer(100, 2);
    const auto written = write_all({"one", "two", "three"});
    EXPECT_EQ(written.count, 2U);
    EXPECT_EQ(written.outcome, Outcome::kNoBuffer);
    EXPECT_EQ(take_used().size(), 2U);
    const auto nothing = write_all({"three"});
    EXPECT_EQ(nothing.count, 0U);
    EXPECT_EQ(nothing.outcome, Outcome::kNoBuffer);
    offer(100);
    EXPECT_EQ(write_all({"three"}).count, 1U);
    EXPECT_EQ(take_used(), std::vector{with_header(1, "three")});
}

TEST_P(ReceiveQueueTest, FrameThatWaitsForMoreBuffersIsNotCounted) {
    start();
    offer(100, 2);
    const auto waiting = write_all({"one", kLong, "three"});
    EXPECT_EQ(waiting.count, 1U);
    EXPECT_EQ(waiting.outcome, Outcome::kNoBuffer);
    EXPECT_TRUE(queue_.has_gathered());
    EXPECT_EQ(take_used(), std::vector{with_header(1, "one")});
    offer(100, 2);
    const auto written = write_all({kLong, "three"});
    EXPECT_EQ(written.count, 1U);
    EXPECT_EQ(written.outcome, Outcome::kWritten);
    EXPECT_EQ(write_all({"three"}).count, 1U);
    EXPECT_EQ(
        take_used(),
        (std::vector{
            with_header(2, std::string(88, 'l')), std::string(62, 'l'), with_header(1, "three")}));
}

TEST_P(ReceiveQueueTest, FrameThatNeverFitsIsNotCounted) {
    start({.merges = false});
    offer(100, 3);
    const auto written = write_all({"one", kLong, "three"});
    EXPECT_EQ(written.count, 1U);
    EXPECT_EQ(written.outcome, Outcome::kBufferTooSmall);
    EXPECT_EQ(write_all({"three"}).count, 1U);
    EXPECT_EQ(take_used(),
              (std::vector{with_header(1, "one"), std::string(), with_header(1, "three")}));
}

TEST_P(ReceiveQueueTest, BufferShorterThanAHeaderComesBackEmpty) {
    start();
    offer(100);
    offer(11);
    offer(100);
    const auto written = write_all({"one", "two", "three"});
    EXPECT_EQ(written.count, 1U);
    EXPECT_EQ(written.outcome, Outcome::kBufferTooSmall);
    EXPECT_EQ(write_all({"three"}).count, 1U);
    EXPECT_EQ(take_used(),
              (std::vector{with_header(1, "one"), std::string(), with_header(1, "three")}));
}

/// Gathered for a long frame, and left over by a shorter one.
TEST_P(ReceiveQueueTest, BufferShorterThanAHeaderIsNeverTheFirstOfAFrame) {
    start();
    offer(100);
    offer(11);
    const auto waiting = write_all({kLong});
    EXPECT_EQ(waiting.count, 0U);
    EXPECT_EQ(waiting.outcome, Outcome::kNoBuffer);
    EXPECT_EQ(write_all({std::string(88, 's')}).count, 1U);
    EXPECT_FALSE(queue_.has_gathered());
    offer(100, 2);
    EXPECT_EQ(write_all({"one"}).count, 1U);
    EXPECT_EQ(write_all({"two"}).count, 1U);
    EXPECT_EQ(take_used(),
              (std::vector{with_header(1, std::string(88, 's')),
                           std::string(),
                           with_header(1, "one"),
                           with_header(1, "two")}));
    EXPECT_EQ(ring_->in_flight(), 0U);
}

TEST_P(ReceiveQueueTest, BufferShorterThanAHeaderServesInTheMiddle) {
    start();
    offer(100);
    offer(11);
    offer(100);
    EXPECT_EQ(write_all({kLong}).count, 1U);
    EXPECT_EQ(
        take_used(),
        (std::vector{
            with_header(3, std::string(88, 'l')), std::string(11, 'l'), std::string(51, 'l')}));
}

TEST_P(ReceiveQueueTest, FramesBeforeOneThatBreaksTheRingAreCounted) {
    start();
    offer(100, 2);
    offer_nonsense();
    const auto written = write_all({"one", "two", "three"});
    EXPECT_EQ(written.count, 2U);
    EXPECT_EQ(written.outcome, Outcome::kNoBuffer);
    EXPECT_TRUE(ring_->broken().has_value());
    EXPECT_EQ(ring_->in_flight(), 0U);
}

TEST_P(ReceiveQueueTest, BuffersThatTheDriverGaveAreToldOfOnce) {
    start();
    offer(100, 1);
    EXPECT_FALSE(queue_.take_served());
    EXPECT_EQ(write_all({"one", "two"}).count, 1U);
    EXPECT_TRUE(queue_.take_served());
    EXPECT_EQ(write_all({"two"}).count, 0U);
    EXPECT_FALSE(queue_.take_served());
}

constexpr RingRow kRows[] = {
    {}, {.packed = true}, {.in_order = true}, {.packed = true, .in_order = true}};

INSTANTIATE_TEST_SUITE_P(Rings, ReceiveQueueTest, ::testing::ValuesIn(kRows), [](const auto& row) {
    return std::string(row.param.packed ? "Packed" : "Split") +
           (row.param.in_order ? "InOrder" : "");
});

}  // namespace
}  // namespace outrigger::net
