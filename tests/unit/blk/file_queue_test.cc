// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <stdlib.h>
#include <unistd.h>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/guest/sigbus_guard.h"

#include "tests/unit/blk/file_queue_fixture.h"

namespace outrigger::blk {
namespace {

// --- Reads and writes ----------------------------------------------------------------------------

TEST_F(FileQueueTest, PassesTheGuestsSegmentsToTheKernelUncopied) {
    add_segment(512);
    add_segment(1024);
    set_up_data(request_, ImageCommand::kRead, 4096);
    queue_->submit(request_);
    EXPECT_EQ(call().opcode, IoOpcode::kRead);
    EXPECT_EQ(call().offset_bytes, 4096U);
    EXPECT_EQ(call().segments, segments_.data());
    EXPECT_EQ(call().segment_count, 2U);
    answer(1536);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueTest, RequestOfNoBytesEndsWithoutACall) {
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    EXPECT_EQ(request_.result, 0);
}

// Trap 3: short transfers are not successes.
TEST_F(FileQueueTest, ShortReadGoesOnWithTheRest) {
    add_segment(512);
    add_segment(1024);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    answer(700);
    EXPECT_FALSE(request_.result.has_value());
    EXPECT_EQ(call().offset_bytes, 700U);
    EXPECT_EQ(call().segment_count, 1U);
    EXPECT_EQ(call().segments[0].iov_base, memory_[1].data() + 188);
    EXPECT_EQ(call().segments[0].iov_len, 1024U - 188);
    answer(1024 - 188);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueTest, ShortWriteGoesOnWithTheRest) {
    add_segment(1024);
    set_up_data(request_, ImageCommand::kWrite, 512);
    queue_->submit(request_);
    answer(1);
    EXPECT_EQ(call().opcode, IoOpcode::kWrite);
    EXPECT_EQ(call().offset_bytes, 513U);
    answer(1023);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueTest, ShortWriteThatThenFailsIsAFailure) {
    add_segment(1024);
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    answer(512);
    answer(-ENOSPC);
    EXPECT_EQ(request_.result, ENOSPC);
}

TEST_F(FileQueueTest, ReadBehindTheFilesEndGivesZeroes) {
    add_segment(512);
    add_segment(512);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    answer(600);
    answer(0);
    EXPECT_EQ(request_.result, 0);
    EXPECT_EQ(memory_[0], std::vector<std::byte>(512, std::byte{0x11}));
    EXPECT_EQ(memory_[1][87], std::byte{0x11});
    EXPECT_TRUE(std::all_of(memory_[1].begin() + 88, memory_[1].end(), [](std::byte byte) {
        return byte == std::byte{0};
    }));
}

TEST_F(FileQueueTest, ReadBehindTheEndOfABlockDeviceFails) {
    file_.is_block_device = true;
    add_segment(1024);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    answer(512);
    answer(0);
    EXPECT_EQ(request_.result, EIO) << "it was pulled out: zeroes would be a lie";
}

TEST_F(FileQueueTest, WriteThatGoesNowhereFails) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    answer(0);
    EXPECT_EQ(request_.result, EIO);
}

TEST_F(FileQueueTest, ReadErrorIsReported) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    answer(-EIO);
    EXPECT_EQ(request_.result, EIO);
    EXPECT_FALSE(file_.sync_failed.is_set());
}

// Trap 14: no more than IOV_MAX segments in a call.
TEST_F(FileQueueTest, MoreSegmentsThanOneCallTakesGoInSeveral) {
    for (int i = 0; i < 1030; ++i) {
        add_segment(512);
    }
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    EXPECT_EQ(call().segment_count, 1024U);
    answer(1024 * 512);
    EXPECT_EQ(call().segment_count, 6U);
    EXPECT_EQ(call().offset_bytes, 1024U * 512);
    answer(6 * 512);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueTest, StaysBehindTheKernelsLimitOfBytes) {
    // One segment of 3 GiB that nobody touches: the kernel takes 2 GiB - 4 KiB of it.
    const uint64_t size = uint64_t{3} << 30;
    std::byte byte{};
    segments_.push_back({.iov_base = &byte, .iov_len = size});
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    answer(0x7fff'f000);
    EXPECT_EQ(call().offset_bytes, 0x7fff'f000U);
    EXPECT_EQ(call().segments[0].iov_len, size - 0x7fff'f000U);
    answer(static_cast<int32_t>(size - 0x7fff'f000U));
    EXPECT_EQ(request_.result, 0);
}

// Trap 15: EAGAIN and EINTR are no errors.
TEST_F(FileQueueTest, InterruptedCallIsMadeAgain) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kRead, 512);
    queue_->submit(request_);
    answer(-EINTR);
    answer(-EAGAIN);
    EXPECT_EQ(call().offset_bytes, 512U);
    answer(512);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueTest, RefusedAgainAndAgainItPausesFirstAndThenGoesOn) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    for (int i = 0; i < 9; ++i) {
        answer(-EAGAIN);
    }
    EXPECT_TRUE(calls_.empty()) << "no pause";
    while (calls_.empty()) {
        loop_->run_once(EventLoop::Clock::time_point::max());
    }
    answer(512);
    EXPECT_EQ(request_.result, 0);
}

// --- Stable writes: trap 2 -----------------------------------------------------------------------

TEST_F(FileQueueTest, StableWriteAsksForStability) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    request_.stable = true;
    queue_->submit(request_);
    EXPECT_TRUE(call().stable);
    answer(100);
    EXPECT_TRUE(call().stable) << "the rest as well";
    answer(412);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueTest, CachedWriteDoesNot) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    EXPECT_FALSE(call().stable);
    answer(512);
}

TEST_F(FileQueueTest, StableZeroingIsSyncedBeforeItEnds) {
    const std::array ranges{ImageRange{.offset_bytes = 0, .length_bytes = 4096, .unmap = false}};
    request_.command = ImageCommand::kWriteZeroes;
    request_.ranges = ranges;
    request_.stable = true;
    queue_->submit(request_);
    EXPECT_EQ(call().opcode, IoOpcode::kZeroRange);
    answer(0);
    EXPECT_FALSE(request_.result.has_value());
    EXPECT_EQ(call().opcode, IoOpcode::kSync);
    answer(0);
    EXPECT_EQ(request_.result, 0);
}

// --- Flush: trap 1 -------------------------------------------------------------------------------

TEST_F(FileQueueTest, FlushSyncsEachTime) {
    request_.command = ImageCommand::kFlush;
    queue_->submit(request_);
    EXPECT_EQ(call().opcode, IoOpcode::kSync);
    answer(0);
    EXPECT_EQ(request_.result, 0);
    TestRequest second;
    second.command = ImageCommand::kFlush;
    queue_->submit(second);
    EXPECT_EQ(call().opcode, IoOpcode::kSync);
    answer(0);
    EXPECT_EQ(second.result, 0);
}

TEST_F(FileQueueTest, FlushKeepsFailingAfterOneFailure) {
    request_.command = ImageCommand::kFlush;
    queue_->submit(request_);
    answer(-EIO);
    EXPECT_EQ(request_.result, EIO);
    TestRequest second;
    second.command = ImageCommand::kFlush;
    queue_->submit(second);
    EXPECT_EQ(second.result, EIO) << "the kernel forgets what it could not write";
}

TEST_F(FileQueueTest, FlushFailsWhenAnotherOneFailedMeanwhile) {
    request_.command = ImageCommand::kFlush;
    TestRequest other;
    other.command = ImageCommand::kFlush;
    queue_->submit(request_);
    queue_->submit(other);
    answer(-EIO);
    answer(0);
    EXPECT_EQ(other.result, EIO);
}

TEST_F(FileQueueTest, FlushFailsAfterAFailedStableWrite) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    request_.stable = true;
    queue_->submit(request_);
    answer(-EIO);
    TestRequest flush;
    flush.command = ImageCommand::kFlush;
    queue_->submit(flush);
    EXPECT_EQ(flush.result, EIO);
}

/// How a flush ends after a stable write that failed so.
class FileQueueAfterStableWrite : public FileQueueTest {
  protected:
    bool flush_is_tried_after(int os_error) {
        add_segment(512);
        set_up_data(request_, ImageCommand::kWrite, 0);
        request_.stable = true;
        queue_->submit(request_);
        answer(-os_error);
        EXPECT_EQ(request_.result, os_error);
        TestRequest flush;
        flush.command = ImageCommand::kFlush;
        queue_->submit(flush);
        if (flush.result == EIO) {
            return false;
        }
        answer(0);
        return flush.result == 0;
    }
};

TEST_F(FileQueueAfterStableWrite, FlushIsTriedAfterMemoryThatWasGone) {
    EXPECT_TRUE(flush_is_tried_after(EFAULT));
}

TEST_F(FileQueueAfterStableWrite, FlushIsTriedAfterAFileFoundNoRoom) {
    EXPECT_TRUE(flush_is_tried_after(ENOSPC));
}

TEST_F(FileQueueAfterStableWrite, FlushFailsAfterABlockDeviceFoundNoRoom) {
    file_.is_block_device = true;
    EXPECT_FALSE(flush_is_tried_after(ENOSPC));
}

// Trap 13.
TEST_F(FileQueueTest, FlushOfAReadOnlyImageSucceedsWithoutACall) {
    file_.properties.read_only = true;
    request_.command = ImageCommand::kFlush;
    queue_->submit(request_);
    EXPECT_EQ(request_.result, 0);
}

// --- Direct I/O: trap 5 --------------------------------------------------------------------------

class FileQueueDirect : public FileQueueTest {
  protected:
    FileQueueDirect() {
        file_.direct = true;
        file_.address_alignment = 512;
        file_.offset_alignment = 512;
    }

    /// A segment that begins at an odd address.
    void add_odd_segment(size_t size) {
        memory_.push_back(std::vector<std::byte>(size + 1024, std::byte{0x11}));
        // SAFETY: only the number is used, to find an address inside the vector.
        const auto address = reinterpret_cast<uintptr_t>(memory_.back().data());
        odd_ = memory_.back().data() + (512 - address % 512) + 1;
        segments_.push_back({.iov_base = odd_, .iov_len = size});
    }

    std::byte* odd_ = nullptr;
};

TEST_F(FileQueueDirect, AlignedBuffersGoToTheKernelAsTheyAre) {
    alignas(512) static std::array<std::byte, 1024> memory;
    segments_.push_back({.iov_base = memory.data(), .iov_len = memory.size()});
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    EXPECT_EQ(call().segments[0].iov_base, memory.data());
    answer(1024);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueDirect, UnalignedReadIsBounced) {
    add_odd_segment(1024);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    auto* const bounce = static_cast<std::byte*>(call().segments[0].iov_base);
    // SAFETY: only the number is used.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bounce) % 4096, 0U);
    std::fill_n(bounce, 1024, std::byte{0x77});
    answer(1024);
    EXPECT_EQ(request_.result, 0);
    EXPECT_TRUE(std::all_of(odd_, odd_ + 1024, [](std::byte b) { return b == std::byte{0x77}; }));
    EXPECT_EQ(odd_[1024], std::byte{0x11});
}

TEST_F(FileQueueDirect, UnalignedWriteIsBouncedInPieces) {
    const size_t size = BouncePool::kBufferBytes + 512;
    add_odd_segment(size);
    odd_[0] = std::byte{1};
    odd_[BouncePool::kBufferBytes] = std::byte{2};
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    EXPECT_EQ(*static_cast<std::byte*>(call().segments[0].iov_base), std::byte{1});
    answer(BouncePool::kBufferBytes);
    EXPECT_EQ(*static_cast<std::byte*>(call().segments[0].iov_base), std::byte{2});
    EXPECT_EQ(call().segments[0].iov_len, 512U);
    answer(512);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueDirect, WhatIsGatheredFromATruncatedFileIsNotWritten) {
    std::string path = testing::TempDir() + "/gathered-XXXXXX";
    const UniqueFd fd(::mkstemp(path.data()));
    ::unlink(path.c_str());
    ASSERT_EQ(::ftruncate(fd.get(), 8192), 0);
    const Mapping mapping = Mapping::map_file(fd.get(), 0, 8192).value();
    const GuardedRange guard(mapping.whole().data(), mapping.whole().size());
    segments_.push_back({.iov_base = mapping.data() + 1, .iov_len = 1024});
    set_up_data(request_, ImageCommand::kWrite, 0);
    request_.lost = [&guard] { return guard.lost(); };
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    queue_->submit(request_);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EFAULT);
    calls_.clear();
}

TEST_F(FileQueueTest, WriteOfLostDataIsNotSubmitted) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    request_.lost = [] { return true; };
    queue_->submit(request_);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EFAULT);
    calls_.clear();
}

TEST_F(FileQueueTest, WriteOfDataThatIsLostMeanwhileIsNotRepeated) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    bool lost = false;
    request_.lost = [&lost] { return lost; };
    queue_->submit(request_);
    lost = true;
    answer(-EAGAIN);
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(request_.result, EFAULT);
    calls_.clear();
}

TEST_F(FileQueueTest, WriteDuringWhichItsDataIsLostFails) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kWrite, 0);
    bool lost = false;
    request_.lost = [&lost] { return lost; };
    queue_->submit(request_);
    lost = true;
    answer(512);
    EXPECT_EQ(request_.result, EFAULT);
}

TEST_F(FileQueueTest, ReadIntoLostMemoryEndsAsUsual) {
    add_segment(512);
    set_up_data(request_, ImageCommand::kRead, 0);
    request_.lost = [] { return true; };
    queue_->submit(request_);
    answer(512);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueDirect, ShortBouncedWriteWritesTheRestAgain) {
    add_odd_segment(1024);
    odd_[512] = std::byte{3};
    set_up_data(request_, ImageCommand::kWrite, 0);
    queue_->submit(request_);
    answer(512);
    EXPECT_EQ(call().offset_bytes, 512U);
    EXPECT_EQ(call().segments[0].iov_len, 512U);
    EXPECT_EQ(*static_cast<std::byte*>(call().segments[0].iov_base), std::byte{3});
    answer(512);
    EXPECT_EQ(request_.result, 0);
}

TEST_F(FileQueueDirect, ReadThatStopsInsideABlockIsAtTheFilesEnd) {
    add_odd_segment(1024);
    set_up_data(request_, ImageCommand::kRead, 0);
    queue_->submit(request_);
    answer(100);
    EXPECT_EQ(request_.result, 0);
    EXPECT_EQ(odd_[100], std::byte{0});
    EXPECT_EQ(odd_[1023], std::byte{0});
}

TEST_F(FileQueueDirect, MoreUnalignedRequestsThanBuffersWaitAndEnd) {
    add_odd_segment(512);
    std::array<TestRequest, BouncePool::kBuffersMax + 4> requests;
    for (TestRequest& request : requests) {
        set_up_data(request, ImageCommand::kRead, 0);
        queue_->submit(request);
    }
    EXPECT_EQ(calls_.size(), BouncePool::kBuffersMax);
    for (size_t i = 0; i < requests.size(); ++i) {
        answer(512);
    }
    EXPECT_TRUE(std::ranges::all_of(requests, [](const auto& r) { return r.result == 0; }));
}

}  // namespace
}  // namespace outrigger::blk
