// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <vector>

#include "tests/unit/blk/file_queue_fixture.h"

namespace outrigger::blk {
namespace {

// --- Discard: trap 7 -----------------------------------------------------------------------------

class FileQueueRanges : public FileQueueTest {
  protected:
    void submit(ImageCommand command, uint64_t offset, uint64_t length, bool unmap = false) {
        ranges_.push_back({.offset_bytes = offset, .length_bytes = length, .unmap = unmap});
        request_.command = command;
        request_.ranges = ranges_;
        queue_->submit(request_);
    }

    void expect_call(IoOpcode opcode, uint64_t offset, uint64_t length) {
        EXPECT_EQ(call().opcode, opcode);
        EXPECT_EQ(call().offset_bytes, offset);
        EXPECT_EQ(call().length_bytes, length);
    }

    std::vector<ImageRange> ranges_;
};

TEST_F(FileQueueRanges, DiscardRoundsInward) {
    file_.properties.discard_alignment_bytes = 4096;
    submit(ImageCommand::kDiscard, 512, 3 * 4096);
    expect_call(IoOpcode::kPunchHole, 4096, 2 * 4096);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, DiscardOfPartOfAUnitEndsWithoutACall) {
    file_.properties.discard_alignment_bytes = 4096;
    submit(ImageCommand::kDiscard, 512, 4096);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, DiscardGoesThroughAllSegments) {
    ranges_.push_back({.offset_bytes = 8192, .length_bytes = 4096, .unmap = false});
    submit(ImageCommand::kDiscard, 0, 4096);
    expect_call(IoOpcode::kPunchHole, 8192, 4096);
    answer(0);
    expect_call(IoOpcode::kPunchHole, 0, 4096);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, LongDiscardGoesInPieces) {
    const uint64_t piece = uint64_t{256} << 20;
    submit(ImageCommand::kDiscard, 0, piece + 4096);
    expect_call(IoOpcode::kPunchHole, 0, piece);
    answer(0);
    expect_call(IoOpcode::kPunchHole, piece, 4096);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, DiscardThatTheHostCannotIsOkAndNotTriedAgain) {
    submit(ImageCommand::kDiscard, 0, 4096);
    answer(-EOPNOTSUPP);
    EXPECT_EQ(request_.result, 0);
    TestRequest second;
    second.command = ImageCommand::kDiscard;
    second.ranges = ranges_;
    queue_->submit(second);
    EXPECT_EQ(second.result, 0);
}

TEST_F(FileQueueRanges, BlockDeviceThatCannotPunchIsDiscarded) {
    file_.is_block_device = true;
    submit(ImageCommand::kDiscard, 0, 4096);
    answer(-EOPNOTSUPP);
    expect_call(IoOpcode::kDeviceDiscard, 0, 4096);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, FailedDiscardIsAFailure) {
    submit(ImageCommand::kDiscard, 0, 4096);
    answer(-EIO);
    EXPECT_EQ(request_.result, EIO);
}

TEST_F(FileQueueRanges, FewDiscardsRunAtATimeAndAllEnd) {
    ranges_.push_back({.offset_bytes = 0, .length_bytes = 4096, .unmap = false});
    std::array<TestRequest, 10> requests;
    for (TestRequest& request : requests) {
        request.command = ImageCommand::kDiscard;
        request.ranges = ranges_;
        queue_->submit(request);
    }
    EXPECT_EQ(calls_.size(), 4U);
    for (size_t i = 0; i < requests.size(); ++i) {
        answer(0);
    }
    EXPECT_TRUE(std::ranges::all_of(requests, [](const auto& r) { return r.result == 0; }));
}

TEST_F(FileQueueRanges, WaitingDiscardsEndWhenTheFirstSaysThatTheHostCannot) {
    ranges_.push_back({.offset_bytes = 0, .length_bytes = 4096, .unmap = false});
    std::array<TestRequest, kRequestsMax> requests;
    for (TestRequest& request : requests) {
        request.command = ImageCommand::kDiscard;
        request.ranges = ranges_;
        queue_->submit(request);
    }
    for (int i = 0; i < 4; ++i) {
        answer(-EOPNOTSUPP);
    }
    EXPECT_TRUE(std::ranges::all_of(requests, [](const auto& r) { return r.result == 0; }));
}

TEST_F(FileQueueRanges, ReadsOvertakeDiscardsThatWait) {
    ranges_.push_back({.offset_bytes = 0, .length_bytes = 4096, .unmap = false});
    std::array<TestRequest, 5> requests;
    for (TestRequest& request : requests) {
        request.command = ImageCommand::kDiscard;
        request.ranges = ranges_;
        queue_->submit(request);
    }
    add_segment(512);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    ASSERT_EQ(calls_.size(), 5U);
    EXPECT_EQ(calls_.back()->opcode, IoOpcode::kRead);
    for (int i = 0; i < 4; ++i) {
        answer(0);
    }
    answer(512);
    EXPECT_EQ(request_.result, 0);
    answer(0);
    EXPECT_EQ(requests[4].result, 0);
}

// --- Secure erase --------------------------------------------------------------------------------

TEST_F(FileQueueRanges, SecureEraseIsTheDevicesAndCoversExactlyTheRange) {
    file_.is_block_device = true;
    file_.properties.discard_alignment_bytes = 65536;
    submit(ImageCommand::kSecureErase, 4096, 8192);
    expect_call(IoOpcode::kDeviceErase, 4096, 8192);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, SecureEraseThatTheHostCannotIsAFailureEachTime) {
    file_.is_block_device = true;
    submit(ImageCommand::kSecureErase, 0, 4096);
    answer(-EOPNOTSUPP);
    EXPECT_EQ(request_.result, EOPNOTSUPP) << "the guest must not believe that the data is gone";
    TestRequest second;
    second.command = ImageCommand::kSecureErase;
    second.ranges = ranges_;
    queue_->submit(second);
    answer(-EINVAL);
    EXPECT_EQ(second.result, EINVAL);
}

TEST_F(FileQueueRanges, SecureEraseGoesThroughAllSegmentsUntilOneFails) {
    file_.is_block_device = true;
    ranges_.push_back({.offset_bytes = 8192, .length_bytes = 4096, .unmap = false});
    submit(ImageCommand::kSecureErase, 0, 4096);
    expect_call(IoOpcode::kDeviceErase, 8192, 4096);
    answer(0);
    expect_call(IoOpcode::kDeviceErase, 0, 4096);
    answer(-EIO);
    EXPECT_EQ(request_.result, EIO);
}

// --- Write zeroes: trap 8 ------------------------------------------------------------------------

TEST_F(FileQueueRanges, ZeroingWithUnmapPunches) {
    submit(ImageCommand::kWriteZeroes, 512, 1024, true);
    expect_call(IoOpcode::kPunchHole, 512, 1024);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, ZeroingWithoutUnmapKeepsTheSpace) {
    submit(ImageCommand::kWriteZeroes, 512, 1024);
    expect_call(IoOpcode::kZeroRange, 512, 1024);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, ZeroingThatTheHostCannotIsWrittenOut) {
    submit(ImageCommand::kWriteZeroes, 0, (1 << 20) + 512, true);
    answer(-EOPNOTSUPP);
    EXPECT_EQ(call().opcode, IoOpcode::kZeroRange);
    answer(-EOPNOTSUPP);
    EXPECT_EQ(call().opcode, IoOpcode::kWrite);
    EXPECT_EQ(call().segments[0].iov_len, 1U << 20);
    const auto* bytes = static_cast<const std::byte*>(call().segments[0].iov_base);
    EXPECT_TRUE(
        std::all_of(bytes, bytes + (1 << 20), [](std::byte b) { return b == std::byte{0}; }));
    answer(512);
    EXPECT_EQ(call().offset_bytes, 512U) << "a short write goes on";
    EXPECT_EQ(call().segments[0].iov_len, 1U << 20);
    answer(1 << 20);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueRanges, DirectZeroesResumeAtTheBeginningOfABlock) {
    file_.direct = true;
    file_.offset_alignment = 4096;
    file_.no_zero_range = true;
    submit(ImageCommand::kWriteZeroes, 0, 3 * 4096);
    answer(4096 + 512);
    EXPECT_EQ(call().opcode, IoOpcode::kWrite);
    EXPECT_EQ(call().offset_bytes, 4096U);
    EXPECT_EQ(call().segments[0].iov_len, 2 * 4096U);
    answer(512);
    EXPECT_EQ(request_.result, EIO) << "not one block was written";
}

TEST_F(FileQueueRanges, RangesThatMayHaveBeenReadFromLostMemoryAreLeftAlone) {
    request_.lost = [] { return true; };
    submit(ImageCommand::kWriteZeroes, 0, 4096);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EFAULT);
    calls_.clear();
}

TEST_F(FileQueueRanges, RefusedRangeIsWrittenOutAndTheWayNotForgotten) {
    submit(ImageCommand::kWriteZeroes, 0, 512);
    answer(-EINVAL);
    EXPECT_EQ(call().opcode, IoOpcode::kWrite);
    answer(512);
    EXPECT_EQ(request_.result, 0);
    EXPECT_FALSE(file_.no_zero_range);
}

TEST_F(FileQueueRanges, ZeroesThatCannotBeWrittenAreAFailure) {
    file_.no_zero_range = true;
    submit(ImageCommand::kWriteZeroes, 0, 512);
    answer(-ENOSPC);
    EXPECT_EQ(request_.result, ENOSPC);
}

}  // namespace
}  // namespace outrigger::blk
