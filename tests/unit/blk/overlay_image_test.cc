// SPDX-License-Identifier: Apache-2.0
// What an overlay answers, request by request.
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"
#include "tests/unit/blk/overlay_fixture.h"

namespace outrigger::blk {
namespace {

using outrigger::testing::eventually;

constexpr int kFirst = 0x21;
constexpr int kSecond = 0x42;

TEST_F(OverlayTest, ReadsTheBaseWhereNothingWasWritten) {
    format();
    open();
    EXPECT_TRUE(holds_base(0, 1 << 20));
    EXPECT_EQ(overlay_->map().present_count(), 0U);
}

TEST_F(OverlayTest, WriteOfAPartOfAClusterKeepsTheRestOfTheBase) {
    format();
    open();
    ASSERT_EQ(write_value(kCluster + kSector, 2 * kSector, kFirst), 0);
    EXPECT_TRUE(holds_base(kCluster, kSector));
    EXPECT_TRUE(holds(kCluster + kSector, 2 * kSector, kFirst));
    EXPECT_TRUE(holds_base(kCluster + 3 * kSector, kCluster - 3 * kSector));
    EXPECT_EQ(overlay_->map().present_count(), 1U);
}

TEST_F(OverlayTest, WriteOverSeveralClustersReadsTheBaseOnlyAtItsEnds) {
    format();
    open();
    const uint64_t start = 62 * kCluster + kSector;  // over the end of a word of the bitmap
    const size_t size = 5 * kCluster;
    ASSERT_EQ(write_value(start, size, kFirst), 0);
    EXPECT_TRUE(holds(start, size, kFirst));
    EXPECT_TRUE(holds_base(62 * kCluster, kSector));
    EXPECT_TRUE(holds_base(start + size, kCluster - kSector));
    EXPECT_EQ(overlay_->map().present_count(), 6U);
    EXPECT_EQ(overlay_->counters().copied_for_writes, 2U);
}

TEST_F(OverlayTest, WholeClustersAreWrittenWithoutReadingTheBase) {
    format();
    open();
    base_->fail_reads(EIO);
    ASSERT_EQ(write_value(0, 4 * kCluster, kFirst), 0);
    EXPECT_TRUE(holds(0, 4 * kCluster, kFirst));
}

TEST_F(OverlayTest, ManyUnevenSegmentsOverPresentAndAbsentClustersArriveInOrder) {
    format();
    open();
    ASSERT_EQ(write_value(2 * kCluster, kCluster, kSecond), 0);
    std::vector<std::byte> out(8 * kCluster);
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<std::byte>(i * 7 % 251);
    }
    std::vector<iovec> segments;
    for (size_t at = 0; at < out.size(); at += 48) {
        segments.push_back(
            {.iov_base = out.data() + at, .iov_len = std::min<size_t>(48, out.size() - at)});
    }
    Request request;
    request.command = ImageCommand::kWrite;
    request.offset_bytes = kSector;
    request.length_bytes = out.size();
    request.data = segments;
    ASSERT_EQ(run(request), 0);
    EXPECT_EQ(contents(kSector, out.size()), out);

    std::vector<std::byte> in(out.size());
    for (size_t i = 0; i < segments.size(); ++i) {
        segments[i].iov_base = in.data() + i * 48;
    }
    Request again;
    again.command = ImageCommand::kRead;
    again.offset_bytes = kSector;
    again.length_bytes = in.size();
    again.data = segments;
    ASSERT_EQ(run(again), 0);
    EXPECT_EQ(in, out);
}

TEST_F(OverlayTest, BehindTheBaseThereAreZeroesUntilSomethingIsWritten) {
    format({.disk_bytes = 1 << 20, .base_bytes = 10 * kCluster + kSector});
    open();
    EXPECT_TRUE(holds_base(10 * kCluster, kSector));
    EXPECT_TRUE(holds(10 * kCluster + kSector, 3 * kCluster, 0));
    ASSERT_EQ(write_value(10 * kCluster + 2 * kSector, kSector, kFirst), 0);
    EXPECT_TRUE(holds_base(10 * kCluster, kSector));
    EXPECT_TRUE(holds(10 * kCluster + kSector, kSector, 0));
    EXPECT_TRUE(holds(10 * kCluster + 2 * kSector, kSector, kFirst));
    ASSERT_EQ(write_value(20 * kCluster + kSector, kSector, kFirst), 0);
    EXPECT_TRUE(holds(20 * kCluster, kSector, 0));
}

TEST_F(OverlayTest, LastClusterMayBeCutOffByTheDisksEnd) {
    const uint64_t disk = 8 * kCluster + 3 * kSector;
    format({.disk_bytes = disk, .base_bytes = disk});
    open();
    ASSERT_EQ(write_value(disk - kSector, kSector, kFirst), 0);
    EXPECT_TRUE(holds_base(8 * kCluster, 2 * kSector));
    EXPECT_TRUE(holds(disk - kSector, kSector, kFirst));
    ASSERT_EQ(change_range(ImageCommand::kDiscard, 8 * kCluster, 3 * kSector), 0);
    EXPECT_TRUE(holds(8 * kCluster, 3 * kSector, 0));
}

TEST_F(OverlayTest, ZeroedRangesReadAsZeroesAndNotAsTheBase) {
    format();
    open();
    ASSERT_EQ(write_value(5 * kCluster, kCluster, kFirst), 0);
    ASSERT_EQ(change_range(ImageCommand::kWriteZeroes, 3 * kCluster + kSector, 4 * kCluster), 0);
    EXPECT_TRUE(holds_base(3 * kCluster, kSector));
    EXPECT_TRUE(holds(3 * kCluster + kSector, 4 * kCluster, 0));
    EXPECT_TRUE(holds_base(7 * kCluster + kSector, kCluster - kSector));
}

TEST_F(OverlayTest, DiscardTakesWholeClustersAndLeavesTheirNeighbours) {
    format();
    open();
    ASSERT_EQ(change_range(ImageCommand::kDiscard, kCluster + kSector, 2 * kCluster), 0);
    EXPECT_TRUE(holds_base(kCluster, kCluster));
    EXPECT_TRUE(holds(2 * kCluster, kCluster, 0));
    EXPECT_TRUE(holds_base(3 * kCluster, kCluster));
}

TEST_F(OverlayTest, ZeroesBehindTheBaseNeedNoCluster) {
    format({.disk_bytes = 1 << 20, .base_bytes = 4 * kCluster});
    open();
    ASSERT_EQ(change_range(ImageCommand::kWriteZeroes, 8 * kCluster, 100 * kCluster), 0);
    EXPECT_EQ(overlay_->map().present_count(), 0U);
}

TEST_F(OverlayTest, WhatWasFlushedIsThereAgainAfterReopening) {
    format();
    open();
    ASSERT_EQ(write_value(0, kCluster, kFirst), 0);
    ASSERT_EQ(write_value(9 * kCluster, kSector, kSecond), 0);
    reopen();
    EXPECT_TRUE(holds(0, kCluster, kFirst));
    EXPECT_TRUE(holds(9 * kCluster, kSector, kSecond));
    EXPECT_TRUE(holds_base(9 * kCluster + kSector, kCluster - kSector));
    EXPECT_EQ(overlay_->map().present_count(), 2U);
}

TEST_F(OverlayTest, FlushWithoutNewClustersIsOneSync) {
    format();
    open();
    ASSERT_EQ(write_value(0, kCluster, kFirst), 0);
    ASSERT_EQ(flush(), 0);
    ASSERT_EQ(write_value(0, kCluster, kSecond), 0);
    const uint64_t writes = layer_->writes();
    const uint64_t syncs = layer_->syncs();
    ASSERT_EQ(flush(), 0);
    EXPECT_EQ(layer_->writes(), writes);
    EXPECT_EQ(layer_->syncs(), syncs + 1);
}

TEST_F(OverlayTest, BitsOfManyClustersOfAPageAreWrittenAtOnce) {
    format();
    open();
    ASSERT_EQ(write_value(0, kSector, kFirst), 0);
    ASSERT_EQ(flush(), 0);  // the header says now that the layer is in use
    for (uint64_t cluster = 1; cluster < 100; ++cluster) {
        ASSERT_EQ(write_value(cluster * kCluster, kCluster, kFirst), 0);
    }
    const uint64_t writes = layer_->writes();
    ASSERT_EQ(flush(), 0);
    EXPECT_EQ(layer_->writes(), writes + 1);
}

TEST_F(OverlayTest, StableWriteToANewClusterCommitsItsBitBeforeItEnds) {
    format();
    open();
    ASSERT_EQ(write_value(3 * kCluster, kSector, kFirst, true), 0);
    MemoryDiskStore store(*layer_);
    const auto journal = LayerJournal::open(store, "layer").value();
    ClusterMap map(journal->geometry(), 0);
    ASSERT_EQ(journal->load(map), 0);
    EXPECT_TRUE(map.is_present(3));
}

TEST_F(OverlayTest, StableZeroesOfANewClusterCommitTheirBitBeforeTheyEnd) {
    format();
    open();
    ASSERT_EQ(change_range(ImageCommand::kWriteZeroes, 3 * kCluster, kCluster, true), 0);
    MemoryDiskStore store(*layer_);
    const auto journal = LayerJournal::open(store, "layer").value();
    ClusterMap map(journal->geometry(), 0);
    ASSERT_EQ(journal->load(map), 0);
    EXPECT_TRUE(map.is_present(3));
}

TEST_F(OverlayTest, FailedReadOfTheBaseFailsTheWriteAndLeavesTheClusterAbsent) {
    format();
    open();
    base_->fail_reads(EIO);
    EXPECT_EQ(write_value(kSector, kSector, kFirst), EIO);
    EXPECT_FALSE(overlay_->map().is_present(0));
    base_->fail_reads(0);
    EXPECT_TRUE(holds_base(0, kCluster));
    EXPECT_EQ(write_value(kSector, kSector, kFirst), 0);
}

TEST_F(OverlayTest, FullDiskFailsTheWriteAndLeavesTheClusterAbsent) {
    format();
    open();
    layer_->fail_writes(ENOSPC);
    EXPECT_EQ(write_value(kSector, kSector, kFirst), ENOSPC);
    EXPECT_EQ(write_value(4 * kCluster, 4 * kCluster, kFirst), ENOSPC);
    EXPECT_EQ(change_range(ImageCommand::kWriteZeroes, 4 * kCluster, kCluster), ENOSPC);
    EXPECT_EQ(overlay_->map().present_count(), 0U);
    layer_->fail_writes(0);
    EXPECT_TRUE(holds_base(0, 16 * kCluster));
    EXPECT_EQ(write_value(kSector, kSector, kFirst), 0);
}

TEST_F(OverlayTest, FullDiskFailsTheFlushAndTheNextOneCommitsAll) {
    format();
    open();
    ASSERT_EQ(write_value(0, kCluster, kFirst), 0);
    layer_->fail_writes(ENOSPC);
    EXPECT_EQ(flush(), ENOSPC);
    layer_->fail_writes(0);
    EXPECT_EQ(flush(), 0);
    layer_->fail_writes(EIO);  // nothing more gets there
    reopen();
    EXPECT_TRUE(holds(0, kCluster, kFirst));
}

TEST_F(OverlayTest, AfterAFailedSyncEveryFlushFails) {
    format();
    open();
    ASSERT_EQ(write_value(0, kCluster, kFirst), 0);
    layer_->fail_syncs(EIO);
    EXPECT_EQ(flush(), EIO);
    layer_->fail_syncs(0);
    EXPECT_EQ(flush(), EIO);
    EXPECT_EQ(write_value(kCluster, kCluster, kFirst, true), EIO);
}

TEST_F(OverlayTest, LostGuestMemoryDoesNotReachTheLayer) {
    format();
    open();
    std::vector<std::byte> zeroes(kSector);
    const iovec segment = {.iov_base = zeroes.data(), .iov_len = zeroes.size()};
    Request request;
    request.lost = true;
    request.command = ImageCommand::kWrite;
    request.offset_bytes = kSector;
    request.length_bytes = kSector;
    request.data = std::span(&segment, 1);
    EXPECT_EQ(run(request), EFAULT);
    EXPECT_FALSE(overlay_->map().is_present(0));
    EXPECT_TRUE(holds_base(0, kCluster));
}

TEST_F(OverlayTest, CopyOnReadKeepsWhatWasRead) {
    format();
    open({.copy_on_read = true});
    EXPECT_TRUE(holds_base(kCluster + kSector, 3 * kCluster));
    EXPECT_EQ(overlay_->map().present_count(), 4U);
    EXPECT_EQ(overlay_->counters().copied_for_reads, 4U);
    base_->fail_reads(EIO);
    EXPECT_TRUE(holds_base(kCluster, 4 * kCluster));
}

TEST_F(OverlayTest, ReadSucceedsWhenItsCopyCannotBeWritten) {
    format();
    open({.copy_on_read = true});
    layer_->fail_writes(ENOSPC);
    EXPECT_TRUE(holds_base(0, 4 * kCluster));
    EXPECT_EQ(overlay_->map().present_count(), 0U);
    EXPECT_GE(overlay_->counters().copies_failed, 1U);
}

TEST_F(OverlayTest, ReadOnlyOverlayWritesNothing) {
    format();
    open();
    ASSERT_EQ(write_value(0, kCluster, kFirst), 0);
    close();
    layer_->fail_writes(EROFS);
    const uint64_t syncs = layer_->syncs();
    open({.read_only = true, .copy_on_read = true, .fill = true});
    EXPECT_TRUE(holds(0, kCluster, kFirst));
    EXPECT_TRUE(holds_base(kCluster, kCluster));
    EXPECT_EQ(flush(), 0);
    EXPECT_TRUE(overlay_->properties().read_only);
    EXPECT_EQ(overlay_->fill(), nullptr);
    close();
    EXPECT_EQ(layer_->syncs(), syncs);
}

TEST_F(OverlayTest, FillBringsAllOfTheBaseAndStops) {
    format({.disk_bytes = 2 << 20, .base_bytes = (1 << 20) + kSector});
    open({.fill = true});
    ASSERT_TRUE(eventually([&] { return overlay_->fill()->state().complete; }));
    EXPECT_EQ(overlay_->fill()->state().clusters_total, (1 << 20) / kCluster + 1);
    base_->fail_reads(EIO);
    EXPECT_TRUE(holds_base(0, (1 << 20) + kSector));
    EXPECT_TRUE(holds((1 << 20) + kSector, 16 * kCluster, 0));
    EXPECT_TRUE(eventually([&] { return !overlay_->fill()->state().running; }));
}

/// Memory of this process that the system has given pages for.
uint64_t resident_bytes() {
    std::ifstream statm("/proc/self/statm");
    uint64_t total = 0;
    uint64_t resident = 0;
    statm >> total >> resident;
    return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// Nobody takes what is posted to the fill before the first queue.
TEST_F(OverlayTest, FillThatIsAskedAgainAndAgainPilesNothingUp) {
    format();
    overlay_ = try_open({}).value();
    const uint64_t before = resident_bytes();
    for (uint64_t i = 0; i < 2'000'000; ++i) {
        overlay_->fill()->set_rate(i);
        overlay_->fill()->start();
    }
    EXPECT_LT(resident_bytes(), before + (uint64_t{16} << 20));
    EXPECT_EQ(overlay_->fill()->state().rate_max, 1'999'999U);
}

TEST_F(OverlayTest, FillWaitsUntilItIsStartedAndGoesOnAfterReopening) {
    format();
    open();
    outrigger::testing::give_others_a_moment();
    EXPECT_EQ(overlay_->fill()->state().clusters_done, 0U);
    EXPECT_FALSE(overlay_->fill()->state().running);
    overlay_->fill()->set_rate(4 << 20);  // a copy every sixteenth of a second
    overlay_->fill()->start();
    ASSERT_TRUE(eventually([&] { return overlay_->fill()->state().clusters_done > 0; }));
    overlay_->fill()->stop();
    EXPECT_FALSE(overlay_->fill()->state().complete);
    reopen();
    EXPECT_GT(overlay_->fill()->state().clusters_done, 0U);
    overlay_->fill()->start();
    EXPECT_TRUE(eventually([&] { return overlay_->fill()->state().complete; }));
}

TEST_F(OverlayTest, FillReportsWhatFailsAndFailsNobodyElse) {
    format();
    open();
    layer_->fail_writes(ENOSPC);
    overlay_->fill()->start();
    ASSERT_TRUE(eventually([&] { return overlay_->fill()->state().last_error == ENOSPC; }));
    EXPECT_TRUE(holds_base(0, kCluster));
    EXPECT_TRUE(overlay_->fill()->state().running);
}

TEST_F(OverlayTest, FillTriesItsLastCommitAgain) {
    format();
    open();
    layer_->fail_writes(ENOSPC, geometry_.data_offset);
    overlay_->fill()->start();
    ASSERT_TRUE(eventually([&] {
        return overlay_->fill()->state().complete && overlay_->fill()->state().last_error == ENOSPC;
    }));
    layer_->fail_writes(0);
    EXPECT_TRUE(eventually([&] { return overlay_->fill()->state().last_error == 0; }));
}

TEST_F(OverlayTest, FillLeavesWhatTheGuestWrote) {
    format();
    open();
    ASSERT_EQ(write_value(5 * kCluster + kSector, kSector, kFirst), 0);
    overlay_->fill()->start();
    ASSERT_TRUE(eventually([&] { return overlay_->fill()->state().complete; }));
    EXPECT_TRUE(holds(5 * kCluster + kSector, kSector, kFirst));
    EXPECT_TRUE(holds_base(5 * kCluster, kSector));
}

TEST_F(OverlayTest, RefusesABlockSizeThatItsClustersCannotHold) {
    format();
    const auto refused = try_open({.block_bytes = 2 * kCluster});
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("--overlay-cluster"), std::string::npos);
}

TEST_F(OverlayTest, RefusesALayerWithALostPage) {
    format();
    for (const size_t copy : {0U, 1U}) {
        layer_->bytes()[geometry_.page_offset(0, copy) + 100] ^= std::byte{1};
    }
    const auto refused = try_open({});
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("damaged"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::blk
