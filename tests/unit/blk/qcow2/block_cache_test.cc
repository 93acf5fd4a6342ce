// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/block_cache.h"

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

struct Waiter final : public IoOperation {
    void on_complete(int32_t /*result*/, uint32_t /*flags*/) override {}
};

class BlockCacheTest : public testing::Test {
  protected:
    /// Fills the block of that key with its offset.
    void load(BlockCache& cache, const BlockCache::Key& key) {
        const auto found = cache.find(key, waiter_);
        ASSERT_EQ(found.state, BlockCache::State::kMustLoad);
        found.bytes.front() = static_cast<std::byte>(key.offset);
        (void)cache.finish_load(*found.block, true);
    }

    Waiter waiter_;
    Waiter other_;
};

TEST_F(BlockCacheTest, KeepsWhatWasLoaded) {
    BlockCache cache(512, 4096);
    load(cache, {.layer = 0, .offset = 7});
    const auto found = cache.find({.layer = 0, .offset = 7}, waiter_);
    EXPECT_EQ(found.state, BlockCache::State::kReady);
    EXPECT_EQ(found.bytes.front(), std::byte{7});
    EXPECT_EQ(found.bytes.size(), 512U);
}

TEST_F(BlockCacheTest, TellsLayersAndLengthsApart) {
    BlockCache cache(512, 4096);
    load(cache, {.layer = 0, .offset = 7});
    load(cache, {.layer = 1, .offset = 7});
    load(cache, {.layer = 0, .offset = 7, .bytes = 1});
}

TEST_F(BlockCacheTest, BlockIsLoadedOnceHoweverManyWant) {
    BlockCache cache(512, 4096);
    const auto first = cache.find({.layer = 0, .offset = 7}, waiter_);
    ASSERT_EQ(first.state, BlockCache::State::kMustLoad);
    EXPECT_EQ(cache.find({.layer = 0, .offset = 7}, other_).state, BlockCache::State::kWaits);
    BlockCache::Woken woken = cache.finish_load(*first.block, true);
    EXPECT_EQ(woken.for_block.pop(), &other_);
    EXPECT_TRUE(woken.for_block.empty());
    EXPECT_TRUE(woken.for_room.empty());
}

TEST_F(BlockCacheTest, FailedLoadIsForgotten) {
    BlockCache cache(512, 4096);
    const auto first = cache.find({.layer = 0, .offset = 7}, waiter_);
    (void)cache.finish_load(*first.block, false);
    EXPECT_EQ(cache.find({.layer = 0, .offset = 7}, waiter_).state, BlockCache::State::kMustLoad);
}

TEST_F(BlockCacheTest, LoadsUnderWayAreNotReplaced) {
    BlockCache cache(512, 512);
    const auto first = cache.find({.layer = 0, .offset = 7}, waiter_);
    ASSERT_EQ(first.state, BlockCache::State::kMustLoad);
    EXPECT_EQ(cache.find({.layer = 0, .offset = 8}, other_).state, BlockCache::State::kWaits);
    BlockCache::Woken woken = cache.finish_load(*first.block, true);
    EXPECT_TRUE(woken.for_block.empty());
    EXPECT_EQ(woken.for_room.pop(), &other_);
    EXPECT_EQ(cache.find({.layer = 0, .offset = 8}, other_).state, BlockCache::State::kMustLoad);
}

TEST_F(BlockCacheTest, LongestUnusedGoesFirst) {
    BlockCache cache(512, 2 * 512);
    load(cache, {.layer = 0, .offset = 1});
    load(cache, {.layer = 0, .offset = 2});
    EXPECT_EQ(cache.find({.layer = 0, .offset = 1}, waiter_).state, BlockCache::State::kReady);
    load(cache, {.layer = 0, .offset = 3});
    EXPECT_EQ(cache.find({.layer = 0, .offset = 1}, waiter_).state, BlockCache::State::kReady);
    EXPECT_EQ(cache.find({.layer = 0, .offset = 2}, waiter_).state, BlockCache::State::kMustLoad);
}

}  // namespace
}  // namespace outrigger::blk
