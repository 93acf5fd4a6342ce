// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/block_book.h"

#include <array>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

constexpr uint32_t kBlocks = 8;
constexpr uint32_t kBlockBytes = 512;
constexpr uint64_t kSeed = 99;

using Content = std::vector<std::byte>;

class BlockBookTest : public ::testing::Test {
  protected:
    ~BlockBookTest() override { ::unlink(path_.c_str()); }

    /// A write of the next generation that the back end acknowledges. What it wrote.
    Content write(uint32_t block) {
        Content data = begin_write(block);
        book_.write_ended(block, true);
        return data;
    }

    /// A write that is never answered.
    Content begin_write(uint32_t block) {
        Content data(kBlockBytes);
        EXPECT_EQ(book_.take(block), block);
        book_.stamp(block, data);
        return data;
    }

    void flush() { book_.flush_succeeded(book_.flush_begins()); }

    /// The same book after the loss of the back end.
    BlockBook reloaded() {
        EXPECT_TRUE(book_.save(path_));
        auto book = BlockBook::load(path_, kBlocks, kBlockBytes);
        EXPECT_TRUE(book);
        return *std::move(book);
    }

    BlockBook book_{kBlocks, kBlockBytes, kSeed};
    const std::string path_ = ::testing::TempDir() + "book-" + std::to_string(::getpid());
};

TEST_F(BlockBookTest, WhatWasWrittenIsGood) {
    const Content data = write(3);

    EXPECT_EQ(book_.check(3, data), BlockFinding::kGood);
}

TEST_F(BlockBookTest, WhatWasNeverWrittenMayHoldAnything) {
    EXPECT_EQ(book_.check(3, Content(kBlockBytes)), BlockFinding::kGood);
}

TEST_F(BlockBookTest, ZeroesInPlaceOfWhatWasWrittenAreStrange) {
    write(3);

    EXPECT_EQ(book_.check(3, Content(kBlockBytes)), BlockFinding::kStrange);
}

TEST_F(BlockBookTest, AnotherRunsBlockIsStrange) {
    BlockBook other(kBlocks, kBlockBytes, kSeed + 1);
    Content data(kBlockBytes);
    (void)other.take(3);
    other.stamp(3, data);
    write(3);

    EXPECT_EQ(book_.check(3, data), BlockFinding::kStrange);
}

TEST_F(BlockBookTest, AnotherBlockIsFound) {
    const Content data = write(4);
    write(3);

    EXPECT_EQ(book_.check(3, data), BlockFinding::kOtherBlock);
}

TEST_F(BlockBookTest, LostWriteIsFound) {
    const Content old = write(3);
    write(3);

    EXPECT_EQ(book_.check(3, old), BlockFinding::kOutdated);
}

TEST_F(BlockBookTest, EveryDamagedByteIsFound) {
    const Content good = write(3);
    for (size_t at = 0; at < kBlockBytes; ++at) {
        Content data = good;
        data[at] ^= std::byte{0x10};

        EXPECT_NE(book_.check(3, data), BlockFinding::kGood) << at;
    }
}

TEST_F(BlockBookTest, WriteThatFailedLeavesTheBlockUnknown) {
    write(3);
    const Content data = begin_write(3);
    book_.write_ended(3, false);

    EXPECT_EQ(book_.check(3, data), BlockFinding::kGood);
    EXPECT_EQ(book_.check(3, Content(kBlockBytes)), BlockFinding::kGood);
}

TEST_F(BlockBookTest, TakenBlockIsNotGivenAgain) {
    EXPECT_EQ(book_.take(7), 7U);
    EXPECT_EQ(book_.take(7), 0U);
    book_.read_ended(7);
    EXPECT_EQ(book_.take(7), 7U);
}

TEST_F(BlockBookTest, FlushedBlockMustSurvive) {
    const Content data = write(3);
    flush();
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, Content(kBlockBytes)), BlockFinding::kStrange);
    EXPECT_EQ(after.check_recovered(3, data), BlockFinding::kGood);
}

TEST_F(BlockBookTest, UnflushedBlockNeedNotSurvive) {
    write(3);
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, Content(kBlockBytes)), BlockFinding::kGood);
}

TEST_F(BlockBookTest, BlockThatWasNeverWrittenMayHoldAnythingAfterTheLoss) {
    write(2);
    flush();
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, Content(kBlockBytes)), BlockFinding::kGood);
    EXPECT_EQ(after.check(3, Content(kBlockBytes)), BlockFinding::kGood);
}

TEST_F(BlockBookTest, FlushCoversOnlyWhatWasAcknowledgedBeforeIt) {
    const Content old = write(3);
    const uint64_t began = book_.flush_begins();
    const Content unflushed = write(3);
    book_.flush_succeeded(began);
    BlockBook after = reloaded();

    // The generation that the flush had found must be there, or the one behind it.
    EXPECT_EQ(after.check_recovered(3, Content(kBlockBytes)), BlockFinding::kStrange);
    EXPECT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
    EXPECT_EQ(after.check_recovered(3, unflushed), BlockFinding::kGood);
}

TEST_F(BlockBookTest, OlderThanFlushedIsFoundAfterTheLoss) {
    const Content old = write(3);
    write(3);
    flush();
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, old), BlockFinding::kOutdated);
}

TEST_F(BlockBookTest, WriteInFlightMayBeThereOrNot) {
    const Content old = write(3);
    flush();
    const Content in_flight = begin_write(3);
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, in_flight), BlockFinding::kGood);
    EXPECT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
}

TEST_F(BlockBookTest, WriteInFlightMayBeDoneInPart) {
    const Content old = write(3);
    flush();
    Content torn = begin_write(3);
    std::memcpy(torn.data() + 256, old.data() + 256, 256);
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, torn), BlockFinding::kGood);
}

TEST_F(BlockBookTest, FlushedBlockThatNobodyWritesMustNotBeDamaged) {
    Content data = write(3);
    flush();
    data[300] ^= std::byte{1};
    BlockBook after = reloaded();

    EXPECT_EQ(after.check_recovered(3, data), BlockFinding::kDamaged);
}

TEST_F(BlockBookTest, WhatWasFoundAfterTheLossMustStay) {
    const Content old = write(3);
    flush();
    const Content in_flight = begin_write(3);
    BlockBook after = reloaded();

    ASSERT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
    EXPECT_EQ(after.check(3, old), BlockFinding::kGood);
    EXPECT_EQ(after.check(3, in_flight), BlockFinding::kUnwritten);
}

TEST_F(BlockBookTest, ReadLeavesWhatWasFoundAfterTheLossInForce) {
    const Content old = write(3);
    flush();
    (void)begin_write(3);
    BlockBook after = reloaded();
    (void)after.take(3);
    ASSERT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
    after.read_ended(3);

    EXPECT_EQ(after.check(3, Content(kBlockBytes)), BlockFinding::kStrange);
}

TEST_F(BlockBookTest, FlushBehindTheLossDoesNotMakeSafeWhatWasLost) {
    const Content old = write(3);
    flush();
    (void)write(3);
    (void)write(3);
    BlockBook after = reloaded();
    (void)after.take(3);
    ASSERT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
    after.read_ended(3);
    after.flush_succeeded(after.flush_begins());
    (void)after.take(3);
    after.read_ended(3);
    ASSERT_TRUE(after.save(path_));
    auto later = BlockBook::load(path_, kBlocks, kBlockBytes);
    ASSERT_TRUE(later);

    EXPECT_EQ(later->check_recovered(3, old), BlockFinding::kGood);
}

TEST_F(BlockBookTest, DamageThatWasLetPassDoesNotBringTheLostBack) {
    const Content old = write(3);
    flush();
    (void)write(3);
    (void)write(3);
    BlockBook after = reloaded();
    Content torn = old;
    torn[300] ^= std::byte{1};
    ASSERT_EQ(after.check_recovered(3, torn), BlockFinding::kGood);
    after.flush_succeeded(after.flush_begins());

    EXPECT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
}

TEST_F(BlockBookTest, BlockThatWasForgottenMayHoldWhatWasFlushed) {
    const Content old = write(3);
    flush();
    (void)write(3);
    BlockBook after = reloaded();
    after.forget(3);
    after.flush_succeeded(after.flush_begins());

    EXPECT_EQ(after.check(3, old), BlockFinding::kGood);
    EXPECT_EQ(after.check_recovered(3, old), BlockFinding::kGood);
    EXPECT_EQ(after.check_recovered(3, Content(kBlockBytes)), BlockFinding::kStrange);
}

TEST_F(BlockBookTest, BookOfAnotherShapeIsRefused) {
    ASSERT_TRUE(book_.save(path_));

    EXPECT_FALSE(BlockBook::load(path_, kBlocks + 1, kBlockBytes));
    EXPECT_FALSE(BlockBook::load(path_, kBlocks, kBlockBytes * 2));
    EXPECT_FALSE(BlockBook::load(path_ + "-missing", kBlocks, kBlockBytes));
}

TEST_F(BlockBookTest, BookThatIsCutShortIsRefused) {
    ASSERT_TRUE(book_.save(path_));
    ASSERT_EQ(::truncate(path_.c_str(), 100), 0);

    EXPECT_FALSE(BlockBook::load(path_, kBlocks, kBlockBytes));
}

TEST_F(BlockBookTest, WhatIsNoBookIsRefused) {
    std::ofstream(path_) << std::string(4096, 'x');

    EXPECT_FALSE(BlockBook::load(path_, kBlocks, kBlockBytes));
}

}  // namespace
}  // namespace outrigger::bench
