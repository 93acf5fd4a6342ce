// SPDX-License-Identifier: Apache-2.0
// Traps 1 to 8: what reaches the disk, and when it is called done.
#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

#include "tests/integration/blk_traps.h"

namespace outrigger::testing {
namespace {

// --- 1: flush ------------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap01FlushWithoutDataSyncsEachTime) {
    run();
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_EQ(fault_.count(IoOpcode::kSync), 0U);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(fault_.count(IoOpcode::kSync), 2U);
}

TEST_F(BlkTraps, Trap01SyncThatFailedOnceFailsEveryFlushAfterIt) {
    run();
    fault_.set_rule(answers(IoOpcode::kSync, -EIO));
    EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
    fault_.set_rule(nullptr);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR) << "the kernel tells of lost data only once";
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_OK) << "writes may still be tried";
}

TEST_F(BlkTraps, Trap01FullDiskIsFoundByTheSync) {
    run();
    fault_.set_rule(answers(IoOpcode::kSync, -ENOSPC));
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
}

// --- 2: write-through ----------------------------------------------------------------------------

TEST_F(BlkTraps, Trap02DriverThatCannotFlushGetsStableWrites) {
    run({.features =
             driver::kUsualFeatures.without(VIRTIO_BLK_F_FLUSH).without(VIRTIO_BLK_F_CONFIG_WCE)});
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_OK);
    const auto calls = fault_.calls(IoOpcode::kWrite);
    ASSERT_EQ(calls.size(), 1U);
    EXPECT_TRUE(calls[0].stable) << "one call: a sync behind it could fail unseen";
    EXPECT_EQ(frontend_->get_config(kWritebackOffset, 1).value().at(0), std::byte{0});
}

TEST_F(BlkTraps, Trap02CacheIsOnWhereTheDriverCanFlush) {
    run();
    EXPECT_EQ(frontend_->get_config(kWritebackOffset, 1).value().at(0), std::byte{1});
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_FALSE(fault_.calls(IoOpcode::kWrite).at(0).stable);
}

TEST_F(BlkTraps, Trap02ModeOfAWriteIsThatOfItsSubmission) {
    run();
    fault_.set_rule(holds(IoOpcode::kWrite));
    const Segment first = begin({header(VIRTIO_BLK_T_OUT, 0), readable(bytes(512, 0x31))});
    ASSERT_TRUE(fault_.wait_held(1));
    const std::array off{std::byte{0}};
    ASSERT_EQ(frontend_->set_config(kWritebackOffset, off), driver::Answer::kAccepted);
    const Segment second = begin({header(VIRTIO_BLK_T_OUT, 8), readable(bytes(512, 0x32))});
    ASSERT_TRUE(fault_.wait_held(2));
    fault_.release();
    ASSERT_TRUE(wait_answers(2));
    EXPECT_EQ(status_in(first), VIRTIO_BLK_S_OK);
    EXPECT_EQ(status_in(second), VIRTIO_BLK_S_OK);
    const auto calls = fault_.calls(IoOpcode::kWrite);
    ASSERT_EQ(calls.size(), 2U);
    EXPECT_FALSE(calls[0].stable);
    EXPECT_TRUE(calls[1].stable);
}

TEST_F(BlkTraps, Trap02StableWriteThatFailsFailsTheFlushesToo) {
    run();
    const std::array off{std::byte{0}};
    ASSERT_EQ(frontend_->set_config(kWritebackOffset, off), driver::Answer::kAccepted);
    fault_.set_rule(answers(IoOpcode::kWrite, -EIO));
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_IOERR);
    fault_.set_rule(nullptr);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
}

// --- 3: short transfers --------------------------------------------------------------------------

TEST_F(BlkTraps, Trap03ShortTransfersGoOnWithTheRest) {
    run();
    std::vector<std::byte> data(65536);
    for (size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(i / 512 + 1);
    }
    fault_.set_rule(short_transfers(3000));
    EXPECT_EQ(write(8, data), VIRTIO_BLK_S_OK);
    EXPECT_EQ(fault_.count(IoOpcode::kWrite), 22U);
    std::vector<std::byte> in;
    EXPECT_EQ(read(8, 65536, in), VIRTIO_BLK_S_OK);
    EXPECT_EQ(in, data);
    EXPECT_TRUE(backing_.holds(8 * 512, 512, 1));
    EXPECT_TRUE(backing_.holds(8 * 512 + 65536 - 512, 512, 128));
}

TEST_F(BlkTraps, Trap03WriteThatGetsNowhereFails) {
    run();
    fault_.set_rule(answers(IoOpcode::kWrite, 0));
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkTraps, Trap03WhatAShrunkFileLacksIsZeroAndNotStale) {
    backing_.fill(0, 8192, 0x31);
    run();
    ASSERT_EQ(::ftruncate(backing_.fd(), 4096 + 100), 0);
    std::vector<std::byte> in;
    EXPECT_EQ(read(0, 8192, in), VIRTIO_BLK_S_OK);
    EXPECT_EQ(in[4096 + 99], std::byte{0x31});
    EXPECT_TRUE(std::all_of(in.begin() + 4096 + 100, in.end(), [](std::byte b) {
        return b == std::byte{0};
    })) << "neither what was in the guest's buffer nor in ours";
    EXPECT_EQ(last_length_, 8193U);
}

// --- 4: bounds -----------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap04NothingReachesBeyondTheEnd) {
    run();
    const uint64_t end = kDiskBytes / 512;
    EXPECT_EQ(write(end - 1, 1024, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(write(end, 512, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(write(UINT64_MAX, 512, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(write(UINT64_MAX / 512 + 1, 512, 0x31), VIRTIO_BLK_S_IOERR) << "0 as a byte offset";
    EXPECT_EQ(
        status_of_request({header(VIRTIO_BLK_T_WRITE_ZEROES, 0), range(end - 1, 2), writable(1)}),
        VIRTIO_BLK_S_IOERR);
    std::vector<std::byte> in;
    EXPECT_EQ(read(end - 1, 1024, in), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(in, bytes(1024, kUntouched));
    EXPECT_EQ(backing_.size(), kDiskBytes);
    EXPECT_EQ(fault_.count(IoOpcode::kWrite) + fault_.count(IoOpcode::kRead), 0U);
    EXPECT_EQ(write(end - 1, 512, 0x31), VIRTIO_BLK_S_OK);
}

TEST_F(BlkTraps, Trap04LengthsAreWholeBlocks) {
    run({.block_bytes = 4096});
    EXPECT_EQ(write(0, 511, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(write(0, 512, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(write(1, 4096, 0x31), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(write(8, 4096, 0x31), VIRTIO_BLK_S_OK);
}

// --- 5: direct I/O -------------------------------------------------------------------------------

class BlkTrapsDirect : public BlkTraps {
  protected:
    void SetUp() override {
        const auto file = ImageFile::open({.path = backing_.path(), .direct = true});
        if (!file) {
            GTEST_SKIP() << file.error().message;
        }
    }

    [[nodiscard]] std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> file) override {
        if (host_needs_4096_) {
            file->offset_alignment = 4096;
            file->address_alignment = std::max(file->address_alignment, 512U);
            file->block_locks = std::make_unique<BlockLocks>();
        }
        return BlkTraps::make_image(std::move(file));
    }

    bool host_needs_4096_ = false;
};

TEST_F(BlkTrapsDirect, Trap05BuffersOfTheGuestMayLieAnywhere) {
    run({.direct = true});
    const std::vector<std::byte> data = bytes(8192, 0x31);
    Segment source = readable(bytes(8192 + 1, 0x31));
    source.address = driver::offset_by(source.address, 1);
    source.length = 8192;
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_OUT, 8), source, writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(4096, 8192, 0x31));
    Segment target = writable(8192 + 1);
    target.address = driver::offset_by(target.address, 1);
    target.length = 8192;
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, 8), target, writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(bytes_of(target), data);
}

TEST_F(BlkTrapsDirect, Trap05DiskOffersTheBlockThatTheHostCanWrite) {
    run({.direct = true});
    EXPECT_GE(file_->properties.block_bytes, file_->offset_alignment);
    EXPECT_EQ(file_->block_locks, nullptr) << "then no write reads first";
}

TEST_F(BlkTrapsDirect, Trap05PartsOfABlockFromTwoQueuesLoseNothing) {
    host_needs_4096_ = true;
    run({.worker_count = 2, .queue_count = 2, .direct = true, .block_bytes = 512});
    constexpr uint64_t kSectors = 64;
    for (int round = 1; round <= 20; ++round) {
        for (uint64_t sector = 0; sector < kSectors; ++sector) {
            (void)begin({header(VIRTIO_BLK_T_OUT, sector),
                         readable(bytes(512, static_cast<int>(sector) + round))},
                        sector % 2);
        }
        ASSERT_TRUE(wait_answers(kSectors / 2, 0));
        ASSERT_TRUE(wait_answers(kSectors / 2, 1));
        for (uint64_t sector = 0; sector < kSectors; ++sector) {
            ASSERT_TRUE(backing_.holds(sector * 512, 512, static_cast<int>(sector) + round))
                << "sector " << sector << " in round " << round;
        }
    }
}

TEST_F(BlkTrapsDirect, Trap05BadBlockFailsWhatTouchesItAndNothingElse) {
    host_needs_4096_ = true;
    backing_.fill(0, 65536, 0x44);
    run({.direct = true, .block_bytes = 512});
    fault_.set_rule(bad_sectors(8192, 512));
    EXPECT_EQ(write(17, 512, 0x31), VIRTIO_BLK_S_IOERR) << "what surrounds it cannot be read";
    EXPECT_EQ(write(24, 512, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(8192, 4096, 0x44));
    EXPECT_TRUE(backing_.holds(24 * 512, 512, 0x31));
    EXPECT_TRUE(backing_.holds(25 * 512, 512, 0x44));
}

// --- 6: sectors ----------------------------------------------------------------------------------

TEST_F(BlkTraps, Trap06SectorsAre512BytesWithLargeBlocks) {
    run({.block_bytes = 4096});
    const auto config = frontend_->get_config(0, 60).value();
    virtio_blk_config space{};
    std::memcpy(&space, config.data(), sizeof space < 60 ? sizeof space : 60);
    EXPECT_EQ(space.capacity, kDiskBytes / 512);
    EXPECT_EQ(space.blk_size, 4096U);
    EXPECT_EQ(write(8, 4096, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(4096, 4096, 0x31));
    EXPECT_TRUE(backing_.holds(8 * 4096, 4096, 0));
}

// --- 7: discard ----------------------------------------------------------------------------------

class BlkTrapsRanges : public BlkTraps {
  protected:
    void skip_without_discard() {
        if (!discards()) {
            GTEST_SKIP() << "no holes can be made here, so discarding is not offered";
        }
    }

    int discard(std::vector<Segment> ranges) {
        ranges.insert(ranges.begin(), header(VIRTIO_BLK_T_DISCARD, 0));
        ranges.push_back(writable(1));
        return status_of_request(ranges);
    }

    int zero(std::vector<Segment> ranges) {
        ranges.insert(ranges.begin(), header(VIRTIO_BLK_T_WRITE_ZEROES, 0));
        ranges.push_back(writable(1));
        return status_of_request(ranges);
    }
};

class BlkTrapsDiscard : public BlkTrapsRanges {
  protected:
    void SetUp() override {
        backing_.fill(0, 1 << 20, 0x61);
        run();
        skip_without_discard();
    }
};

TEST_F(BlkTrapsDiscard, Trap07DiscardKnowsNoFlag) {
    EXPECT_EQ(discard({range(0, 8, 1)}), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(discard({range(0, 8), range(8, 8, 1U << 31)}), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(fault_.count(IoOpcode::kPunchHole), 0U) << "no segment of a refused request is done";
    EXPECT_TRUE(backing_.holds(0, 1 << 20, 0x61));
}

TEST_F(BlkTrapsDiscard, Trap07EverySegmentIsCheckedBeforeTheFirstIsDone) {
    EXPECT_EQ(discard({range(0, 8), range(kDiskBytes / 512 - 1, 2)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(discard({}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(fault_.count(IoOpcode::kPunchHole), 0U);
}

class BlkTrapsCoarseDiscard : public BlkTrapsRanges {
  protected:
    static constexpr uint32_t kAlignment = 65536;

    void SetUp() override {
        discard_alignment_bytes_ = kAlignment;
        backing_.fill(0, 1 << 20, 0x61);
        run();
        skip_without_discard();
    }
};

TEST_F(BlkTrapsCoarseDiscard, Trap07DiscardRoundsInward) {
    EXPECT_EQ(discard({range(1, 254)}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(fault_.count(IoOpcode::kPunchHole), 0U) << "no whole piece lies in it";
    EXPECT_EQ(discard({range(1, 383)}), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, kAlignment, 0x61));
    EXPECT_TRUE(backing_.holds(kAlignment, 2 * kAlignment, 0));
    EXPECT_TRUE(backing_.holds(3 * kAlignment, kAlignment, 0x61));
}

TEST_F(BlkTrapsDiscard, Trap07DiscardToTheEndKeepsTheSize) {
    EXPECT_EQ(discard({range(0, 1 << 19)}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(backing_.size(), kDiskBytes);
}

TEST_F(BlkTrapsDiscard, Trap07HostThatCannotDiscardIsAskedOnce) {
    fault_.set_rule(answers(IoOpcode::kPunchHole, -EOPNOTSUPP));
    EXPECT_EQ(discard({range(0, 8)}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(discard({range(0, 8)}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(fault_.count(IoOpcode::kPunchHole), 1U);
    EXPECT_TRUE(backing_.holds(0, 1 << 20, 0x61));
}

// --- 8: zeroes -----------------------------------------------------------------------------------

TEST_F(BlkTrapsRanges, Trap08ZeroedReadsAsZeroesWhateverTheHostCan) {
    backing_.fill(0, 1 << 20, 0x61);
    run();
    int offset = 0;
    for (const CallRule& rule :
         {CallRule(nullptr),
          answers(IoOpcode::kPunchHole, -EOPNOTSUPP),
          CallRule([](const auto& c) {
              return c.opcode == IoOpcode::kPunchHole || c.opcode == IoOpcode::kZeroRange
                         ? CallFate{.kind = CallFate::Kind::kAnswer, .value = -EOPNOTSUPP}
                         : CallFate{};
          })}) {
        fault_.set_rule(rule);
        const auto sector = static_cast<uint64_t>(offset / 512);
        EXPECT_EQ(zero({range(sector + 1, 3, 1), range(sector + 16, 8)}), VIRTIO_BLK_S_OK);
        const auto at = static_cast<uint64_t>(offset);
        EXPECT_TRUE(backing_.holds(at, 512, 0x61));
        EXPECT_TRUE(backing_.holds(at + 512, 3 * 512, 0));
        EXPECT_TRUE(backing_.holds(at + 4 * 512, 12 * 512, 0x61));
        EXPECT_TRUE(backing_.holds(at + 16 * 512, 8 * 512, 0));
        EXPECT_TRUE(backing_.holds(at + 24 * 512, 512, 0x61));
        offset += 65536;
    }
}

TEST_F(BlkTrapsRanges, Trap08LongZeroingGoesInPiecesAndOthersGoPast) {
    run();
    fault_.set_rule(holds(IoOpcode::kZeroRange));
    std::vector<Segment> request{header(VIRTIO_BLK_T_WRITE_ZEROES, 0)};
    for (uint64_t i = 0; i < 4; ++i) {
        request.push_back(range(i * 65536, 65536));
    }
    const Segment zeroing = begin(request);
    ASSERT_TRUE(fault_.wait_held(1));
    std::vector<std::byte> in;
    EXPECT_EQ(read(0, 512, in), VIRTIO_BLK_S_OK) << "while the zeroing stands still";
    fault_.release();
    ASSERT_TRUE(wait_answers(1));
    EXPECT_EQ(status_in(zeroing), VIRTIO_BLK_S_OK);
    auto calls = fault_.calls(IoOpcode::kZeroRange);
    // What a host that cannot zero gets in its place.
    std::ranges::copy(fault_.calls(IoOpcode::kWrite), std::back_inserter(calls));
    EXPECT_GE(calls.size(), 4U);
    EXPECT_TRUE(std::ranges::all_of(
        calls, [](const HostCall& call) { return call.length_bytes <= uint64_t{32} << 20; }));
}

}  // namespace
}  // namespace outrigger::testing
