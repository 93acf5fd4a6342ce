// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/segment_cursor.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

class SegmentCursorTest : public testing::Test {
  protected:
    static std::vector<std::byte> filled(size_t size, int value) {
        return std::vector<std::byte>(size, static_cast<std::byte>(value));
    }

    std::vector<std::byte> a_ = filled(4, 1);
    std::vector<std::byte> b_ = filled(6, 2);
    std::vector<std::byte> c_ = filled(2, 3);
    std::array<iovec, 3> segments_{iovec{a_.data(), 4}, iovec{b_.data(), 6}, iovec{c_.data(), 2}};
    SegmentCursor cursor_{segments_, 12};
    iovec partial_{};
};

TEST_F(SegmentCursorTest, RunsOverWholeSegmentsWithoutCopying) {
    const auto run = cursor_.next_run(1024, partial_);
    EXPECT_EQ(run.segments, segments_.data());
    EXPECT_EQ(run.count, 3U);
}

TEST_F(SegmentCursorTest, RunIsBounded) {
    EXPECT_EQ(cursor_.next_run(2, partial_).count, 2U);
}

TEST_F(SegmentCursorTest, ResumesInTheMiddleOfASegment) {
    cursor_.advance(5);
    EXPECT_EQ(cursor_.remaining(), 7U);
    const auto run = cursor_.next_run(1024, partial_);
    EXPECT_EQ(run.count, 1U);
    EXPECT_EQ(run.segments[0].iov_base, b_.data() + 1);
    EXPECT_EQ(run.segments[0].iov_len, 5U);
}

TEST_F(SegmentCursorTest, ResumesAtASegmentBoundary) {
    cursor_.advance(10);
    const auto run = cursor_.next_run(1024, partial_);
    EXPECT_EQ(run.segments, &segments_[2]);
    EXPECT_EQ(run.count, 1U);
}

TEST_F(SegmentCursorTest, NothingRunsAtTheEnd) {
    cursor_.advance(12);
    EXPECT_EQ(cursor_.next_run(1024, partial_).count, 0U);
}

TEST_F(SegmentCursorTest, GathersAcrossSegments) {
    std::array<std::byte, 7> out;
    EXPECT_EQ(cursor_.gather(out), 7U);
    EXPECT_EQ(out[3], std::byte{1});
    EXPECT_EQ(out[4], std::byte{2});
    EXPECT_EQ(cursor_.remaining(), 5U);
}

TEST_F(SegmentCursorTest, ScattersNoFurtherThanItsEnd) {
    const std::vector<std::byte> in = filled(20, 9);
    EXPECT_EQ(cursor_.scatter(in), 12U);
    EXPECT_EQ(c_, filled(2, 9));
    EXPECT_EQ(cursor_.remaining(), 0U);
}

TEST_F(SegmentCursorTest, ZeroesOnlyWhatRemains) {
    cursor_.advance(5);
    cursor_.zero_rest();
    EXPECT_EQ(a_, filled(4, 1));
    EXPECT_EQ(b_[0], std::byte{2});
    EXPECT_EQ(b_[1], std::byte{0});
    EXPECT_EQ(c_, filled(2, 0));
}

TEST_F(SegmentCursorTest, AlignmentLooksAtAddressAndLength) {
    // Static: ASan's fake stack of g++ 12 does not keep to such an alignment.
    alignas(512) static std::array<std::byte, 2048> memory;
    const std::array aligned{iovec{memory.data(), 512}, iovec{memory.data() + 512, 1024}};
    const std::array odd_address{iovec{memory.data() + 8, 512}};
    const std::array odd_length{iovec{memory.data(), 511}, iovec{memory.data() + 512, 1}};
    EXPECT_TRUE(SegmentCursor(aligned, 1536).is_aligned(512, 512));
    EXPECT_FALSE(SegmentCursor(odd_address, 512).is_aligned(512, 512));
    EXPECT_TRUE(SegmentCursor(odd_address, 512).is_aligned(4, 512));
    EXPECT_FALSE(SegmentCursor(odd_length, 512).is_aligned(512, 512));
}

}  // namespace
}  // namespace outrigger::blk
