// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/block_locks.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <semaphore>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

constexpr uint64_t kStretch = BlockLocks::kStretchBytes;

class TestHolder final : public BlockLocks::Holder {
  public:
    void on_locked() override { ++times_told; }

    int times_told = 0;
};

TEST(BlockLocks, WholeBlocksShareAStretch) {
    BlockLocks locks;
    TestHolder first;
    TestHolder second;
    EXPECT_TRUE(locks.lock(first, 0, 4096, false));
    EXPECT_TRUE(locks.lock(second, 0, 4096, false));
    locks.unlock(first);
    locks.unlock(second);
}

TEST(BlockLocks, PartOfABlockWaitsForWholeOnes) {
    BlockLocks locks;
    TestHolder whole;
    TestHolder part;
    ASSERT_TRUE(locks.lock(whole, 0, 4096, false));
    EXPECT_FALSE(locks.lock(part, 512, 512, true));
    EXPECT_EQ(part.times_told, 0);
    locks.unlock(whole);
    EXPECT_EQ(part.times_told, 1);
    locks.unlock(part);
}

TEST(BlockLocks, WholeBlockWaitsForAPartOfOne) {
    BlockLocks locks;
    TestHolder part;
    TestHolder whole;
    ASSERT_TRUE(locks.lock(part, 512, 512, true));
    EXPECT_FALSE(locks.lock(whole, 0, 4096, false));
    locks.unlock(part);
    EXPECT_EQ(whole.times_told, 1);
    locks.unlock(whole);
}

TEST(BlockLocks, OtherStretchesAreFree) {
    BlockLocks locks;
    TestHolder one;
    TestHolder other;
    ASSERT_TRUE(locks.lock(one, 0, 512, true));
    EXPECT_TRUE(locks.lock(other, kStretch, 512, true));
    locks.unlock(one);
    locks.unlock(other);
}

TEST(BlockLocks, RangeThatEndsInAStretchHoldsIt) {
    BlockLocks locks;
    TestHolder across;
    TestHolder second;
    TestHolder third;
    ASSERT_TRUE(locks.lock(across, kStretch - 512, 1024, true));
    EXPECT_FALSE(locks.lock(second, kStretch, 512, true));
    EXPECT_TRUE(locks.lock(third, 2 * kStretch, 512, true));
    locks.unlock(across);
    EXPECT_EQ(second.times_told, 1);
    locks.unlock(second);
    locks.unlock(third);
}

TEST(BlockLocks, NobodyGoesPastWhoWaits) {
    BlockLocks locks;
    TestHolder whole;
    TestHolder part;
    TestHolder late;
    ASSERT_TRUE(locks.lock(whole, 0, 4096, false));
    ASSERT_FALSE(locks.lock(part, 0, 512, true));
    EXPECT_FALSE(locks.lock(late, 0, 4096, false)) << "a stream of these would starve the other";
    locks.unlock(whole);
    EXPECT_EQ(part.times_told, 1);
    EXPECT_EQ(late.times_told, 0);
    locks.unlock(part);
    EXPECT_EQ(late.times_told, 1);
    locks.unlock(late);
}

TEST(BlockLocks, AllWholeBlocksAtTheFrontOfTheLineComeIn) {
    BlockLocks locks;
    TestHolder part;
    std::array<TestHolder, 3> whole;
    ASSERT_TRUE(locks.lock(part, 0, 512, true));
    for (TestHolder& holder : whole) {
        ASSERT_FALSE(locks.lock(holder, 0, 4096, false));
    }
    locks.unlock(part);
    for (TestHolder& holder : whole) {
        EXPECT_EQ(holder.times_told, 1);
        locks.unlock(holder);
    }
}

TEST(BlockLocks, LongRangeHoldsEverything) {
    BlockLocks locks;
    TestHolder all;
    TestHolder other;
    ASSERT_TRUE(locks.lock(all, 512, uint64_t{16} << 30, true));
    EXPECT_FALSE(locks.lock(other, uint64_t{1} << 40, 512, true));
    locks.unlock(all);
    EXPECT_EQ(other.times_told, 1);
    locks.unlock(other);
}

TEST(BlockLocks, RangesThatWrapAroundTheTableDoNotWaitForEachOther) {
    BlockLocks locks;
    TestHolder low;
    TestHolder wrapping;
    TestHolder high;
    const uint64_t last = (BlockLocks::kSlots - 1) * kStretch;
    ASSERT_TRUE(locks.lock(low, 0, 512, true));
    ASSERT_FALSE(locks.lock(wrapping, last, 2 * kStretch, true)) << "it waits for the first slot";
    ASSERT_TRUE(locks.lock(high, last, 512, true)) << "and holds none behind that one yet";
    locks.unlock(low);
    EXPECT_EQ(wrapping.times_told, 0);
    locks.unlock(high);
    EXPECT_EQ(wrapping.times_told, 1);
    locks.unlock(wrapping);
}

TEST(BlockLocks, WhatIsFreeAgainCanBeHadAgain) {
    BlockLocks locks;
    TestHolder holder;
    for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(locks.lock(holder, 0, 512, true));
        locks.unlock(holder);
    }
    locks.unlock(holder);
    EXPECT_TRUE(locks.lock(holder, 0, 512, true)) << "unlocking nothing changes nothing";
    locks.unlock(holder);
}

/// Waits in its thread, which the product never does.
class SleepingHolder final : public BlockLocks::Holder {
  public:
    void on_locked() override { told_.release(); }

    void lock(BlockLocks& locks, uint64_t offset, uint64_t length, bool alone) {
        if (!locks.lock(*this, offset, length, alone)) {
            told_.acquire();
        }
    }

  private:
    std::counting_semaphore<1> told_{0};
};

TEST(BlockLocks, ThreadsThatChangePartsLoseNoChange) {
    constexpr int kThreads = 4;
    constexpr int kRounds = 20'000;
    constexpr uint64_t kStretches = 5;
    BlockLocks locks;
    // Plain numbers: a change that is not alone is lost, and a race for TSan.
    std::array<uint64_t, kStretches> numbers{};
    std::array<std::atomic<uint64_t>, kStretches> expected{};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            std::mt19937 random(static_cast<unsigned>(thread));
            SleepingHolder holder;
            for (int round = 0; round < kRounds; ++round) {
                const uint64_t first = random() % kStretches;
                const uint64_t count = 1 + random() % (kStretches - first);
                const bool exclusive = random() % 2 == 0;
                holder.lock(locks, first * kStretch, count * kStretch, exclusive);
                for (uint64_t i = first; exclusive && i < first + count; ++i) {
                    ++numbers[i];
                    expected[i].fetch_add(1, std::memory_order_relaxed);
                }
                locks.unlock(holder);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    for (uint64_t i = 0; i < kStretches; ++i) {
        EXPECT_EQ(numbers[i], expected[i].load(std::memory_order_relaxed));
    }
}

}  // namespace
}  // namespace outrigger::blk
