// SPDX-License-Identifier: Apache-2.0
#include "devices/net/segment_merger.h"

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "devices/net/offload.h"
#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::FrameOptions;
using testing::make_frame;
using testing::make_payload;
using testing::read_frame;

constexpr uint8_t kAck = 0x10;
constexpr uint8_t kAckPush = 0x18;
constexpr Offloads kTcp = {.checksum = true, .tcp4 = true, .tcp6 = true};

std::span<std::byte> bytes_of(std::string& text) {
    return std::as_writable_bytes(std::span(text));
}

class SegmentMergerTest : public ::testing::TestWithParam<bool> {
  protected:
    SegmentMergerTest() { merger_.set_guest(kTcp); }

    /// The next bytes of the stream.
    std::string next_segment(size_t bytes, uint8_t flags = kAck) {
        options_.tcp_flags = flags;
        const std::string payload = make_payload(bytes, options_.sequence);
        const std::string frame = make_frame(payload, options_);
        options_.sequence += static_cast<uint32_t>(bytes);
        ++options_.identity;
        stream_ += payload;
        return frame;
    }

    [[nodiscard]] bool push(std::string frame) { return merger_.push(bytes_of(frame)); }

    /// All frames of the queue, cut as a guest's kernel would have to: what TCP reads of them.
    std::string read_queue() {
        std::string read;
        while (const auto frame = queue_.front()) {
            std::string bytes(frame->bytes, '\0');
            EXPECT_EQ(copy_front(*frame, bytes_of(bytes)), frame->bytes);
            if (frame->offload.segmentation == Segmentation::kNone) {
                read += payload_of(bytes);
            } else {
                auto segmenter = Segmenter::create(bytes_of(bytes), frame->offload);
                EXPECT_TRUE(segmenter);
                while (segmenter && !segmenter->is_done()) {
                    std::string segment(kFrameBytesMax, '\0');
                    segment.resize(segmenter->write_next(bytes_of(segment)));
                    read += payload_of(segment);
                }
            }
            queue_.pop();
        }
        return read;
    }

    std::string payload_of(const std::string& frame) {
        const auto packet = read_frame(frame);  // lengths and checksums are right
        EXPECT_TRUE(packet);
        if (!packet) {
            return "";
        }
        last_flags_ = packet->tcp_flags;
        return packet->payload;
    }

    FrameOptions options_{.ip6 = GetParam(), .tcp_option_bytes = 12, .sequence = 0xffff'ff00};
    std::string stream_;
    uint8_t last_flags_ = 0;
    FrameQueue queue_{1 << 20};
    SegmentMerger merger_{queue_};
};

TEST_P(SegmentMergerTest, SegmentsThatFollowOneAnotherAreOneFrame) {
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(push(next_segment(1448)));
    }
    ASSERT_TRUE(push(next_segment(100, kAckPush)));
    ASSERT_EQ(queue_.size(), 1U);
    const FrameOffload offload = queue_.front()->offload;
    EXPECT_TRUE(offload.needs_checksum);
    EXPECT_EQ(offload.segmentation, GetParam() ? Segmentation::kTcp6 : Segmentation::kTcp4);
    EXPECT_EQ(offload.segment_bytes, 1448);
    EXPECT_EQ(offload.checksum_start, testing::transport_start_of(options_));
    EXPECT_EQ(offload.checksum_offset, 16);
    // A driver that finishes the checksum of the whole has the whole.
    std::string whole(queue_.front()->bytes, '\0');
    (void)copy_front(*queue_.front(), bytes_of(whole));
    FrameOffload left = offload;
    finish_checksum(bytes_of(whole), left);
    EXPECT_EQ(payload_of(whole), stream_);
    EXPECT_EQ(read_queue(), stream_);
    EXPECT_EQ(last_flags_, kAckPush);
}

TEST_P(SegmentMergerTest, OneSegmentStaysAsItIs) {
    const std::string segment = next_segment(1448);
    ASSERT_TRUE(push(segment));
    const FrameOffload offload = queue_.front()->offload;
    EXPECT_FALSE(offload.needs_checksum);
    EXPECT_TRUE(offload.checksum_valid);
    EXPECT_EQ(offload.segmentation, Segmentation::kNone);
    EXPECT_EQ(read_queue(), stream_);
}

TEST_P(SegmentMergerTest, GuestThatTakesNoneGetsEach) {
    for (const Offloads& taken :
         {Offloads{},
          Offloads{.tcp4 = true, .tcp6 = true},
          Offloads{.checksum = true},
          Offloads{.checksum = true, .tcp4 = GetParam(), .tcp6 = !GetParam()}}) {
        merger_.set_guest(taken);
        ASSERT_TRUE(push(next_segment(1000)));
        ASSERT_TRUE(push(next_segment(1000)));
        EXPECT_EQ(queue_.size(), 2U);
        EXPECT_EQ(read_queue(), stream_);
        stream_.clear();
    }
}

TEST_P(SegmentMergerTest, GuestThatTakesNoneAnyMoreGetsEach) {
    ASSERT_TRUE(push(next_segment(1000)));
    merger_.set_guest({.checksum = true});
    ASSERT_TRUE(push(next_segment(1000)));
    EXPECT_EQ(queue_.size(), 2U);
    EXPECT_EQ(read_queue(), stream_);
}

/// What an application wrote at once ends with PSH, and may be shorter or longer than a segment.
TEST_P(SegmentMergerTest, SegmentsOfAllLengthsAreOneFrameAndMayBePushed) {
    ASSERT_TRUE(push(next_segment(330, kAckPush)));
    ASSERT_TRUE(push(next_segment(1448)));
    ASSERT_TRUE(push(next_segment(999)));
    ASSERT_TRUE(push(next_segment(1448)));
    ASSERT_TRUE(push(next_segment(1)));
    ASSERT_EQ(queue_.size(), 1U);
    // Whoever cuts it makes none that is longer than one was.
    EXPECT_EQ(queue_.front()->offload.segment_bytes, 1448);
    EXPECT_EQ(read_queue(), stream_);
    EXPECT_EQ(last_flags_, kAckPush);
}

TEST_P(SegmentMergerTest, NothingIsAddedToWhatSomebodyHas) {
    ASSERT_TRUE(push(next_segment(1000)));
    ASSERT_TRUE(queue_.front());
    ASSERT_TRUE(push(next_segment(1000)));
    ASSERT_TRUE(push(next_segment(1000)));
    EXPECT_EQ(queue_.size(), 2U);
    EXPECT_EQ(read_queue(), stream_);
    // Nor to what is gone.
    ASSERT_TRUE(push(next_segment(1000)));
    EXPECT_EQ(queue_.size(), 1U);
    EXPECT_EQ(read_queue(), stream_.substr(3000));
}

TEST_P(SegmentMergerTest, FramesStayBelowWhatAnIpHeaderCanSay) {
    // 45 of them are 65160 bytes.
    for (int i = 0; i < 46; ++i) {
        ASSERT_TRUE(push(next_segment(1448)));
    }
    EXPECT_EQ(queue_.size(), 2U);
    EXPECT_LE(queue_.front()->bytes, 65535U + kEthernetHeaderBytes);
    EXPECT_EQ(read_queue(), stream_);
    stream_.clear();
    // Nor are there more segments in one than others cut it into.
    for (int i = 0; i < 65; ++i) {
        ASSERT_TRUE(push(next_segment(10)));
    }
    EXPECT_EQ(queue_.size(), 2U);
    EXPECT_EQ(read_queue(), stream_);
}

TEST_P(SegmentMergerTest, FullQueueTakesWhatFitsAndNoPartOfASegment) {
    FrameQueue small(4000);
    SegmentMerger merger(small);
    merger.set_guest(kTcp);
    std::string segment = next_segment(1448);
    ASSERT_TRUE(merger.push(bytes_of(segment)));
    segment = next_segment(1448);
    ASSERT_TRUE(merger.push(bytes_of(segment)));
    const size_t bytes = small.newest().size();
    segment = next_segment(1448);
    EXPECT_FALSE(merger.push(bytes_of(segment)));
    EXPECT_EQ(small.size(), 1U);
    EXPECT_EQ(small.newest().size(), bytes);
}

/// What is behind the first segment differs from what may follow it by this alone.
TEST_P(SegmentMergerTest, SegmentsThatDoNotFollowStayApart) {
    const size_t transport = testing::transport_start_of(options_);
    using Change = std::function<void(std::string&)>;
    const auto byte = [](size_t at) {
        return [at](std::string& frame) { frame[at] = static_cast<char>(frame[at] ^ 1); };
    };
    const std::vector<std::pair<std::string, Change>> changes = {
        {"station", byte(11)},
        {"class of traffic", byte(15)},
        {"hop limit", byte(GetParam() ? 21 : 22)},
        {"source", byte(GetParam() ? 30 : 28)},
        {"destination", byte(transport - 1)},
        {"source port", byte(transport + 1)},
        {"destination port", byte(transport + 3)},
        {"next byte", byte(transport + 7)},
        {"acknowledgement", byte(transport + 11)},
        {"FIN", byte(transport + 13)},
        {"SYN", [&](std::string& frame) { frame[transport + 13] = 0x12; }},
        {"RST", [&](std::string& frame) { frame[transport + 13] = 0x14; }},
        {"URG", [&](std::string& frame) { frame[transport + 13] = 0x30; }},
        {"ECE", [&](std::string& frame) { frame[transport + 13] = 0x50; }},
        {"CWR", [&](std::string& frame) { frame[transport + 13] = static_cast<char>(0x90); }},
        {"no ACK", [&](std::string& frame) { frame[transport + 13] = 0; }},
        {"window", byte(transport + 15)},
        {"urgent pointer", byte(transport + 19)},
        {"an option", byte(transport + 31)},
        {"a shorter header", [&](std::string& frame) { frame[transport + 12] = 0x70; }},
        {"padding", [](std::string& frame) { frame += '\0'; }},
        {"a byte too few", [](std::string& frame) { frame.pop_back(); }},
    };
    for (const auto& [what, change] : changes) {
        ASSERT_TRUE(push(next_segment(1000))) << what;
        std::string second = next_segment(1000);
        change(second);
        ASSERT_TRUE(push(second)) << what;
        EXPECT_EQ(queue_.size(), 2U) << what;
        queue_.clear();
    }
    options_.udp = true;
    ASSERT_TRUE(push(next_segment(1000)));
    ASSERT_TRUE(push(next_segment(1000)));
    EXPECT_EQ(queue_.size(), 2U);
}

/// Whatever comes first, too, is nothing to add to.
TEST_P(SegmentMergerTest, SegmentsThatSaySomethingOfTheConnectionAreNotAddedTo) {
    for (const int flags : {0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00}) {
        ASSERT_TRUE(push(next_segment(1000, static_cast<uint8_t>(flags))));
        ASSERT_TRUE(push(next_segment(1000)));
        EXPECT_EQ(queue_.size(), 2U) << flags;
        queue_.clear();
    }
    ASSERT_TRUE(push(next_segment(0)));
    ASSERT_TRUE(push(next_segment(0)));
    EXPECT_EQ(queue_.size(), 2U);
}

INSTANTIATE_TEST_SUITE_P(Ip, SegmentMergerTest, ::testing::Bool(), [](const auto& test) {
    return test.param ? "6" : "4";
});

}  // namespace
}  // namespace outrigger::net
