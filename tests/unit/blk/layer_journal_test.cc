// SPDX-License-Identifier: Apache-2.0
// Header and bitmap on stable storage: which of two copies counts, and in which order they are
// written.
#include "devices/blk/overlay/layer_journal.h"

#include <cerrno>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/blk/memory_disk.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kDiskBytes = (kClustersPerPage + 100) * 4096;

class LayerJournalTest : public ::testing::Test {
  protected:
    LayerJournalTest()
        : geometry_(layer_geometry(kDiskBytes, 4096).value()),
          disk_(geometry_.data_offset),
          store_(disk_, geometry_.file_bytes) {
        EXPECT_EQ(LayerJournal::format(store_,
                                       {.layer_id = 9,
                                        .cluster_bytes = 4096,
                                        .disk_bytes = kDiskBytes,
                                        .base = {.kind = "raw", .size_bytes = kDiskBytes}}),
                  0);
        open();
    }

    /// Metadata only: the data's part is said to be there.
    class Store final : public LayerStore {
      public:
        Store(MemoryDisk& disk, uint64_t size_bytes) : store_(disk), size_bytes_(size_bytes) {}

        [[nodiscard]] uint64_t size_bytes() const override { return size_bytes_; }

        [[nodiscard]] int read(uint64_t offset, std::span<std::byte> out) override {
            return store_.read(offset, out);
        }

        [[nodiscard]] int write(uint64_t offset, std::span<const std::byte> in) override {
            return store_.write(offset, in);
        }

        [[nodiscard]] int sync() override { return store_.sync(); }

      private:
        MemoryDiskStore store_;
        uint64_t size_bytes_;
    };

    void open() {
        journal_ = LayerJournal::open(store_, "layer").value();
        map_ = std::make_unique<ClusterMap>(geometry_, 0);
        ASSERT_EQ(journal_->load(*map_), 0);
    }

    void make_present(uint64_t cluster) {
        ASSERT_TRUE(map_->try_claim({.first = cluster, .count = 1}));
        map_->release({.first = cluster, .count = 1}, true);
    }

    void damage(uint64_t offset) { disk_.bytes()[offset + 2000] ^= std::byte{1}; }

    LayerGeometry geometry_;
    MemoryDisk disk_;
    Store store_;
    std::unique_ptr<LayerJournal> journal_;
    std::unique_ptr<ClusterMap> map_;
};

TEST_F(LayerJournalTest, CommittedBitsAreThereAgain) {
    make_present(0);
    make_present(kClustersPerPage + 99);
    ASSERT_EQ(journal_->commit(*map_), 0);
    open();
    EXPECT_TRUE(map_->is_present(0));
    EXPECT_TRUE(map_->is_present(kClustersPerPage + 99));
    EXPECT_EQ(map_->present_count(), 2U);
    EXPECT_TRUE(map_->all_stable({.first = 0, .count = 1}));
}

TEST_F(LayerJournalTest, BitsThatWereNotCommittedAreNot) {
    make_present(0);
    open();
    EXPECT_EQ(map_->present_count(), 0U);
}

TEST_F(LayerJournalTest, CommitsWriteTheTwoCopiesInTurn) {
    make_present(1);
    ASSERT_EQ(journal_->commit(*map_), 0);
    make_present(2);
    ASSERT_EQ(journal_->commit(*map_), 0);
    std::vector<uint64_t> sequences;
    for (const size_t copy : {0U, 1U}) {
        LayerBlock block;
        ASSERT_EQ(disk_.read(geometry_.page_offset(0, copy), block), 0);
        sequences.push_back(decode_page(block)->sequence);
    }
    EXPECT_EQ(std::max(sequences[0], sequences[1]), 3U);
    EXPECT_EQ(std::min(sequences[0], sequences[1]), 2U);
}

TEST_F(LayerJournalTest, TornPageOfTheLastCommitLeavesTheCommitBefore) {
    make_present(1);
    ASSERT_EQ(journal_->commit(*map_), 0);  // over copy 1
    make_present(2);
    ASSERT_EQ(journal_->commit(*map_), 0);  // over copy 0
    damage(geometry_.page_offset(0, 0));
    open();
    EXPECT_TRUE(map_->is_present(1));
    EXPECT_FALSE(map_->is_present(2));
    EXPECT_EQ(journal_->findings().copies_damaged, 1U);
    EXPECT_EQ(journal_->findings().pages_lost, 0U);
}

TEST_F(LayerJournalTest, NextCommitGoesOverTheTornCopy) {
    make_present(1);
    ASSERT_EQ(journal_->commit(*map_), 0);
    make_present(2);
    ASSERT_EQ(journal_->commit(*map_), 0);
    damage(geometry_.page_offset(0, 0));
    open();
    make_present(3);
    ASSERT_EQ(journal_->commit(*map_), 0);
    damage(geometry_.page_offset(0, 1));  // what was whole before
    open();
    EXPECT_TRUE(map_->is_present(1));
    EXPECT_TRUE(map_->is_present(3));
}

TEST_F(LayerJournalTest, AfterAnOrderlyEndAnyOneCopyIsEnough) {
    make_present(1);
    ASSERT_EQ(journal_->close(*map_), 0);
    for (const size_t copy : {0U, 1U}) {
        const auto before = std::vector(disk_.bytes().begin(), disk_.bytes().end());
        damage(geometry_.page_offset(0, copy));
        damage(LayerGeometry::header_offset(copy));
        open();
        EXPECT_TRUE(map_->is_present(1)) << copy;
        EXPECT_FALSE(journal_->header().in_use);
        std::ranges::copy(before, disk_.bytes().begin());
    }
}

TEST_F(LayerJournalTest, PageWithoutAGoodCopyIsLost) {
    damage(geometry_.page_offset(1, 0));
    damage(geometry_.page_offset(1, 1));
    open();
    EXPECT_EQ(journal_->findings().pages_lost, 1U);
}

TEST_F(LayerJournalTest, PageOfAnotherLayerOrAnotherPlaceIsNoCopy) {
    for (const size_t copy : {0U, 1U}) {
        ASSERT_EQ(disk_.write(geometry_.page_offset(0, copy),
                              encode_page({.sequence = 9, .layer_id = 10, .index = 0})),
                  0);
        ASSERT_EQ(disk_.write(geometry_.page_offset(1, copy),
                              encode_page({.sequence = 9, .layer_id = 9, .index = 0})),
                  0);
    }
    open();
    EXPECT_EQ(journal_->findings().pages_lost, 2U);
}

TEST_F(LayerJournalTest, BitsBehindTheEndAreCountedAndNotBelieved) {
    LayerPage page{.sequence = 9, .layer_id = 9, .index = 1};
    page.words[1] = uint64_t{1} << 36 | 1;  // of 100 clusters the last is bit 35
    ASSERT_EQ(disk_.write(geometry_.page_offset(1, 0), encode_page(page)), 0);
    open();
    EXPECT_EQ(journal_->findings().bits_beyond_end, 1U);
    EXPECT_EQ(map_->present_count(), 1U);
}

TEST_F(LayerJournalTest, LayerIsInUseFromTheFirstCommitWithBitsToItsEnd) {
    ASSERT_EQ(journal_->commit(*map_), 0);
    EXPECT_FALSE(journal_->header().in_use);
    make_present(1);
    ASSERT_EQ(journal_->commit(*map_), 0);
    open();
    EXPECT_TRUE(journal_->header().in_use);
    ASSERT_EQ(journal_->close(*map_), 0);
    open();
    EXPECT_FALSE(journal_->header().in_use);
}

TEST_F(LayerJournalTest, FailedWriteOfAPageIsMadeUpForByTheNextCommit) {
    make_present(1);
    ASSERT_EQ(journal_->commit(*map_), 0);
    make_present(2);
    disk_.fail_writes(ENOSPC);
    EXPECT_EQ(journal_->commit(*map_), ENOSPC);
    EXPECT_FALSE(map_->all_stable({.first = 2, .count = 1}));
    disk_.fail_writes(0);
    EXPECT_EQ(journal_->commit(*map_), 0);
    open();
    EXPECT_TRUE(map_->is_present(2));
}

TEST_F(LayerJournalTest, AfterAFailedSyncNothingIsCommittedAnyMore) {
    make_present(1);
    disk_.fail_syncs(EIO);
    EXPECT_EQ(journal_->commit(*map_), EIO);
    disk_.fail_syncs(0);
    EXPECT_EQ(journal_->commit(*map_), EIO);
    EXPECT_EQ(journal_->update_header(journal_->header()), EIO);
}

TEST_F(LayerJournalTest, ClearLeavesNoBit) {
    make_present(1);
    make_present(kClustersPerPage);
    ASSERT_EQ(journal_->commit(*map_), 0);
    ASSERT_EQ(journal_->clear(), 0);
    damage(geometry_.page_offset(0, 0));  // whichever copy is left
    open();
    EXPECT_EQ(map_->present_count(), 0U);
}

TEST_F(LayerJournalTest, FileThatIsShorterThanItsHeaderSaysIsRefused) {
    Store shorter(disk_, geometry_.file_bytes - 1);
    const auto journal = LayerJournal::open(shorter, "layer");
    ASSERT_FALSE(journal);
    EXPECT_NE(journal.error().message.find("was cut off"), std::string::npos);
}

TEST_F(LayerJournalTest, FileWithoutAHeaderIsRefused) {
    damage(LayerGeometry::header_offset(0));
    damage(LayerGeometry::header_offset(1));
    const auto journal = LayerJournal::open(store_, "layer");
    ASSERT_FALSE(journal);
    EXPECT_NE(journal.error().message.find("checksum"), std::string::npos);
    MemoryDisk empty(100);
    MemoryDiskStore short_store(empty);
    EXPECT_FALSE(LayerJournal::open(short_store, "layer"));
}

}  // namespace
}  // namespace outrigger::blk
