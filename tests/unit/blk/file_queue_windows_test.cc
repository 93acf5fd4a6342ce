// SPDX-License-Identifier: Apache-2.0
// Blocks smaller than what the host can access directly: trap 5.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/unit/blk/file_queue_fixture.h"

namespace outrigger::blk {
namespace {

constexpr uint32_t kBlock = 4096;

class FileQueueWindows : public FileQueueTest {
  protected:
    FileQueueWindows() {
        file_.direct = true;
        file_.address_alignment = kBlock;
        file_.offset_alignment = kBlock;
        file_.block_locks = std::make_unique<BlockLocks>();
        file_.properties.discard_alignment_bytes = kBlock;
    }

    void submit(TestRequest& request, ImageCommand command, uint64_t offset, size_t size) {
        segments_.clear();
        add_segment(size);
        lists_.push_back(segments_);
        set_up_data(request, command, offset);
        request.data = lists_.back();
        queue_->submit(request);
    }

    void expect_call(IoOpcode opcode, uint64_t offset, size_t size) {
        EXPECT_EQ(call().opcode, opcode);
        EXPECT_EQ(call().offset_bytes, offset);
        ASSERT_EQ(call().segment_count, 1U);
        EXPECT_EQ(call().segments[0].iov_len, size);
        // SAFETY: the address is only looked at as a number.
        EXPECT_EQ(reinterpret_cast<uintptr_t>(call().segments[0].iov_base) % kBlock, 0U);
    }

    /// Answers a read with bytes of that value.
    void answer_read(int32_t count, int value) {
        std::memset(call().segments[0].iov_base, value, static_cast<size_t>(count));
        answer(count);
    }

    [[nodiscard]] bool call_holds(size_t offset, size_t size, int value) {
        const auto* bytes = static_cast<const std::byte*>(call().segments[0].iov_base) + offset;
        return std::all_of(
            bytes, bytes + size, [&](std::byte b) { return b == static_cast<std::byte>(value); });
    }

    /// The queue gets what another thread, here this one, handed on to it.
    void run_loop() {
        while (loop_->run_once(EventLoop::Clock::time_point::min())) {
        }
    }

    std::deque<std::vector<iovec>> lists_;
};

TEST_F(FileQueueWindows, PartOfABlockIsReadChangedAndWrittenWhole) {
    submit(request_, ImageCommand::kWrite, kBlock + 512, 1024);
    expect_call(IoOpcode::kRead, kBlock, kBlock);
    answer_read(kBlock, 0x77);
    expect_call(IoOpcode::kWrite, kBlock, kBlock);
    EXPECT_TRUE(call_holds(0, 512, 0x77));
    EXPECT_TRUE(call_holds(512, 1024, 0x11));
    EXPECT_TRUE(call_holds(1536, kBlock - 1536, 0x77));
    answer(kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, OnlyTheEdgesAreReadFirst) {
    submit(request_, ImageCommand::kWrite, 512, 3 * kBlock);
    expect_call(IoOpcode::kRead, 0, kBlock);
    answer_read(kBlock, 0x77);
    expect_call(IoOpcode::kRead, 3 * kBlock, kBlock);
    answer_read(kBlock, 0x78);
    expect_call(IoOpcode::kWrite, 0, 4 * kBlock);
    EXPECT_TRUE(call_holds(0, 512, 0x77));
    EXPECT_TRUE(call_holds(512, 3 * kBlock, 0x11));
    EXPECT_TRUE(call_holds(3 * kBlock + 512, kBlock - 512, 0x78));
    answer(4 * kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, WholeFirstBlockIsNotRead) {
    submit(request_, ImageCommand::kWrite, 0, kBlock + 512);
    expect_call(IoOpcode::kRead, kBlock, kBlock);
    answer_read(kBlock, 0x77);
    expect_call(IoOpcode::kWrite, 0, 2 * kBlock);
    answer(2 * kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, LongWriteGoesWindowByWindow) {
    submit(request_, ImageCommand::kWrite, 512, 2 * BouncePool::kBufferBytes);
    answer_read(kBlock, 0x77);
    expect_call(IoOpcode::kWrite, 0, BouncePool::kBufferBytes);
    answer(BouncePool::kBufferBytes);
    expect_call(IoOpcode::kWrite, BouncePool::kBufferBytes, BouncePool::kBufferBytes);
    answer(BouncePool::kBufferBytes);
    expect_call(IoOpcode::kRead, 2 * BouncePool::kBufferBytes, kBlock);
    answer_read(kBlock, 0x78);
    expect_call(IoOpcode::kWrite, 2 * BouncePool::kBufferBytes, kBlock);
    EXPECT_TRUE(call_holds(0, 512, 0x11));
    EXPECT_TRUE(call_holds(512, kBlock - 512, 0x78));
    answer(kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, ReadTakesItsPartOfTheBlocks) {
    submit(request_, ImageCommand::kRead, kBlock - 512, 1024);
    expect_call(IoOpcode::kRead, 0, 2 * kBlock);
    std::memset(call().segments[0].iov_base, 0x77, kBlock);
    std::memset(static_cast<std::byte*>(call().segments[0].iov_base) + kBlock, 0x78, kBlock);
    answer(2 * kBlock);
    EXPECT_EQ(request_.result, 0);
    EXPECT_EQ(memory_.back()[511], std::byte{0x77});
    EXPECT_EQ(memory_.back()[512], std::byte{0x78});
}

TEST_F(FileQueueWindows, ShortReadOfAWindowGoesOn) {
    submit(request_, ImageCommand::kRead, 512, 2 * kBlock);
    answer_read(kBlock, 0x77);
    expect_call(IoOpcode::kRead, kBlock, 2 * kBlock);
    answer_read(2 * kBlock, 0x78);
    EXPECT_EQ(request_.result, 0);
    EXPECT_EQ(memory_.back()[0], std::byte{0x77});
    EXPECT_EQ(memory_.back().back(), std::byte{0x78});
}

TEST_F(FileQueueWindows, WhatATruncatedFileLacksIsZero) {
    submit(request_, ImageCommand::kWrite, 512, 512);
    answer_read(256, 0x77);
    expect_call(IoOpcode::kWrite, 0, kBlock);
    EXPECT_TRUE(call_holds(0, 256, 0x77));
    EXPECT_TRUE(call_holds(256, 256, 0));
    EXPECT_TRUE(call_holds(1024, kBlock - 1024, 0));
    answer(kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, BlockDeviceThatEndsEarlyIsAFailure) {
    file_.is_block_device = true;
    submit(request_, ImageCommand::kWrite, 512, 512);
    answer(0);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EIO);
}

TEST_F(FileQueueWindows, FailedReadOfTheEdgeFailsTheWriteAndChangesNothing) {
    submit(request_, ImageCommand::kWrite, 512, 512);
    answer(-EIO);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EIO);
}

TEST_F(FileQueueWindows, ShortWriteOfAWindowGoesOnWithWholeBlocks) {
    submit(request_, ImageCommand::kWrite, 512, 2 * kBlock);
    answer_read(kBlock, 0x77);
    answer_read(kBlock, 0x78);
    answer(kBlock + 512);
    expect_call(IoOpcode::kWrite, kBlock, 2 * kBlock);
    answer(2 * kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, WindowThatTakesLessThanABlockFails) {
    submit(request_, ImageCommand::kWrite, 512, 512);
    answer_read(kBlock, 0x77);
    answer(512);
    EXPECT_EQ(request_.result, EIO);
}

TEST_F(FileQueueWindows, StableWriteOfAPartIsStable) {
    request_.stable = true;
    submit(request_, ImageCommand::kWrite, 512, 512);
    EXPECT_FALSE(call().stable);
    answer_read(kBlock, 0x77);
    EXPECT_TRUE(call().stable);
    answer(-EIO);
    EXPECT_EQ(request_.result, EIO);
    EXPECT_TRUE(file_.sync_failed.is_set());
}

TEST_F(FileQueueWindows, InterruptedWindowIsRepeated) {
    submit(request_, ImageCommand::kWrite, 512, 512);
    answer(-EINTR);
    expect_call(IoOpcode::kRead, 0, kBlock);
    answer_read(kBlock, 0x77);
    answer(-EAGAIN);
    expect_call(IoOpcode::kWrite, 0, kBlock);
    EXPECT_TRUE(call_holds(512, 512, 0x11));
    answer(kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, LostDataIsNotWrittenIntoABlock) {
    bool lost = false;
    request_.lost = [&] { return lost; };
    submit(request_, ImageCommand::kWrite, 512, 512);
    lost = true;
    answer_read(kBlock, 0x77);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EFAULT);
}

TEST_F(FileQueueWindows, PartsOfOneBlockGoOneAfterTheOther) {
    TestRequest second;
    submit(request_, ImageCommand::kWrite, 0, 512);
    submit(second, ImageCommand::kWrite, 512, 512);
    ASSERT_EQ(calls_.size(), 1U);
    answer_read(kBlock, 0x77);
    answer(kBlock);
    EXPECT_EQ(request_.result, 0);
    run_loop();
    expect_call(IoOpcode::kRead, 0, kBlock);
    answer_read(kBlock, 0x78);
    answer(kBlock);
    EXPECT_EQ(second.result, 0);
}

TEST_F(FileQueueWindows, LaterRangeWaitsForAWriteToItsBlocks) {
    constexpr uint64_t kElsewhere = 1 << 20;
    const std::array ranges{ImageRange{.offset_bytes = 0, .length_bytes = kBlock},
                            ImageRange{.offset_bytes = kElsewhere, .length_bytes = kBlock}};
    TestRequest zeroing;
    zeroing.command = ImageCommand::kWriteZeroes;
    zeroing.ranges = ranges;
    queue_->submit(zeroing);
    EXPECT_EQ(call().opcode, IoOpcode::kZeroRange);
    submit(request_, ImageCommand::kWrite, kElsewhere, 512);
    answer(0);
    ASSERT_EQ(calls_.size(), 1U) << "the write would put back what is to be zeroed";
    answer_read(kBlock, 0x77);
    answer(kBlock);
    EXPECT_EQ(request_.result, 0);
    run_loop();
    EXPECT_EQ(call().opcode, IoOpcode::kZeroRange);
    EXPECT_EQ(call().offset_bytes, kElsewhere);
    answer(0);
    EXPECT_EQ(zeroing.result, 0);
}

TEST_F(FileQueueWindows, WholeBlocksWaitForAPartOfThem) {
    TestRequest whole;
    submit(request_, ImageCommand::kWrite, 0, 512);
    submit(whole, ImageCommand::kWrite, 0, kBlock);
    ASSERT_EQ(calls_.size(), 1U) << "what was read would be written over the whole block";
    answer_read(kBlock, 0x77);
    answer(kBlock);
    run_loop();
    expect_call(IoOpcode::kWrite, 0, kBlock);
    answer(kBlock);
    EXPECT_EQ(whole.result, 0);
}

TEST_F(FileQueueWindows, WholeBlocksDoNotWaitForOneAnotherAndReadsForNobody) {
    std::array<TestRequest, 2> whole;
    TestRequest read;
    submit(whole[0], ImageCommand::kWrite, 0, kBlock);
    submit(whole[1], ImageCommand::kWrite, kBlock, kBlock);
    submit(read, ImageCommand::kRead, 512, 512);
    EXPECT_EQ(calls_.size(), 3U);
    answer(kBlock);
    answer(kBlock);
    answer_read(kBlock, 0x77);
    EXPECT_EQ(read.result, 0);
}

TEST_F(FileQueueWindows, FailureLetsTheNextOneIn) {
    TestRequest second;
    submit(request_, ImageCommand::kWrite, 0, 512);
    submit(second, ImageCommand::kWrite, 512, 512);
    answer(-EIO);
    run_loop();
    answer_read(kBlock, 0x77);
    answer(kBlock);
    EXPECT_EQ(second.result, 0);
}

TEST_F(FileQueueWindows, ZeroesOfPartsAreWrittenInWindows) {
    file_.no_zero_range = true;
    const std::array ranges{ImageRange{.offset_bytes = 512, .length_bytes = kBlock}};
    request_.command = ImageCommand::kWriteZeroes;
    request_.ranges = ranges;
    queue_->submit(request_);
    answer_read(kBlock, 0x77);
    answer_read(kBlock, 0x78);
    expect_call(IoOpcode::kWrite, 0, 2 * kBlock);
    EXPECT_TRUE(call_holds(0, 512, 0x77));
    EXPECT_TRUE(call_holds(512, kBlock, 0));
    EXPECT_TRUE(call_holds(kBlock + 512, kBlock - 512, 0x78));
    answer(2 * kBlock);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueWindows, ZeroingWaitsForAPartOfItsBlocks) {
    const std::array ranges{ImageRange{.offset_bytes = 0, .length_bytes = kBlock}};
    TestRequest zeroing;
    submit(request_, ImageCommand::kWrite, 0, 512);
    zeroing.command = ImageCommand::kWriteZeroes;
    zeroing.ranges = ranges;
    queue_->submit(zeroing);
    ASSERT_EQ(calls_.size(), 1U) << "what was read would come back over the zeroes";
    answer_read(kBlock, 0x77);
    answer(kBlock);
    run_loop();
    EXPECT_EQ(call().opcode, IoOpcode::kZeroRange);
    answer(0);
    EXPECT_EQ(zeroing.result, 0);
}

TEST_F(FileQueueWindows, MorePartsThanBuffersWaitAndEnd) {
    std::array<TestRequest, kRequestsMax> requests;
    for (size_t i = 0; i < requests.size(); ++i) {
        submit(requests[i], ImageCommand::kWrite, i * BlockLocks::kStretchBytes, 512);
    }
    EXPECT_EQ(calls_.size(), BouncePool::kBuffersMax);
    while (!calls_.empty()) {
        answer_read(kBlock, 0x77);
    }
    EXPECT_TRUE(std::ranges::all_of(requests, [](const auto& r) { return r.result == 0; }));
}

}  // namespace
}  // namespace outrigger::blk
