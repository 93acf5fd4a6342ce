// SPDX-License-Identifier: Apache-2.0
// The map of clusters: looking, claiming, and waiting for claims.
#include "devices/blk/overlay/cluster_map.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"

#include "devices/blk/overlay/kept_bits.h"
#include "tests/support/wait.h"

namespace outrigger::blk {
namespace {

using outrigger::testing::eventually;

constexpr uint64_t kClusters = 1000;

class ClusterMapTest : public ::testing::Test {
  protected:
    void make_present(uint64_t first, uint64_t count) {
        ASSERT_TRUE(map_.try_claim({.first = first, .count = count}));
        map_.release({.first = first, .count = count}, true);
    }

    ClusterMap map_{layer_geometry(kClusters * 4096, 4096).value(), 900};
};

class CountingWaiter final : public Waiter {
  public:
    void resume() override { ++resumed; }

    std::atomic<int> resumed = 0;
};

TEST_F(ClusterMapTest, CountsWhatIsAlikeOverTheEndsOfWords) {
    make_present(60, 4);
    make_present(64, 64);
    make_present(128, 2);
    EXPECT_EQ(map_.count_absent(0, kClusters), 60U);
    EXPECT_EQ(map_.count_present(0, kClusters), 0U);
    EXPECT_EQ(map_.count_present(60, kClusters), 70U);
    EXPECT_EQ(map_.count_present(61, 100), 39U);
    EXPECT_EQ(map_.count_absent(130, kClusters), kClusters - 130);
    EXPECT_EQ(map_.count_absent(60, kClusters), 0U);
}

TEST_F(ClusterMapTest, CountsPresentClustersOfTheBaseAndOfAll) {
    make_present(896, 10);
    EXPECT_EQ(map_.present_count(), 10U);
    EXPECT_EQ(map_.present_in_base(), 4U);
}

TEST_F(ClusterMapTest, ClaimsExcludeEachOtherWhereTheyMeet) {
    ASSERT_TRUE(map_.try_claim({.first = 10, .count = 5}));
    EXPECT_FALSE(map_.try_claim({.first = 14, .count = 1}));
    EXPECT_FALSE(map_.try_claim({.first = 5, .count = 6}));
    EXPECT_TRUE(map_.try_claim({.first = 15, .count = 1}));
    map_.release({.first = 10, .count = 5}, false);
    EXPECT_TRUE(map_.try_claim({.first = 14, .count = 1}));
    EXPECT_EQ(map_.present_count(), 0U);
}

TEST_F(ClusterMapTest, WholeWordCanBeClaimed) {
    ASSERT_TRUE(map_.try_claim({.first = 64, .count = 64}));
    EXPECT_FALSE(map_.try_claim({.first = 127, .count = 1}));
    EXPECT_TRUE(map_.try_claim({.first = 128, .count = 1}));
    EXPECT_TRUE(map_.try_claim({.first = 63, .count = 1}));
}

TEST_F(ClusterMapTest, FindsAbsentClustersThatNobodyHas) {
    make_present(0, 10);
    ASSERT_TRUE(map_.try_claim({.first = 10, .count = 5}));
    const auto run = map_.find_absent(0, kClusters, 16);
    ASSERT_TRUE(run);
    EXPECT_EQ(run->first, 15U);
    EXPECT_EQ(run->count, 16U);
    EXPECT_EQ(map_.find_absent(60, kClusters, 16)->count, 4U);
    EXPECT_EQ(map_.find_absent(998, kClusters, 16)->count, 2U);
    EXPECT_FALSE(map_.find_absent(0, 15, 16));
}

TEST_F(ClusterMapTest, WhoWaitsIsResumedByARelease) {
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    ResumeInbox inbox(*worker);
    CountingWaiter waiter;
    waiter.inbox = &inbox;
    ASSERT_TRUE(map_.try_claim({.first = 3, .count = 1}));
    EXPECT_FALSE(map_.claim_or_wait({.first = 3, .count = 2}, waiter));
    map_.release({.first = 3, .count = 1}, false);
    EXPECT_TRUE(eventually([&] { return waiter.resumed == 1; }));
}

TEST_F(ClusterMapTest, ReleaseInAnotherWordOfTheShardResumesNobody) {
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    ResumeInbox inbox(*worker);
    CountingWaiter waiter;
    waiter.inbox = &inbox;
    ClusterMap map(layer_geometry(uint64_t{100} * 64 * 4096, 4096).value(), 0);
    const uint64_t same_shard = 64 * 64;
    ASSERT_TRUE(map.try_claim({.first = 0, .count = 1}));
    ASSERT_TRUE(map.try_claim({.first = same_shard, .count = 1}));
    EXPECT_FALSE(map.claim_or_wait({.first = 0, .count = 1}, waiter));
    map.release({.first = same_shard, .count = 1}, false);
    outrigger::testing::give_others_a_moment();
    EXPECT_EQ(waiter.resumed, 0);
    map.release({.first = 0, .count = 1}, true);
    EXPECT_TRUE(eventually([&] { return waiter.resumed == 1; }));
}

TEST_F(ClusterMapTest, DirtyPagesAreTakenOnceUntilTheyChangeAgain) {
    std::vector<uint64_t> pages;
    make_present(5, 1);
    map_.take_dirty_pages(pages);
    EXPECT_EQ(pages, (std::vector<uint64_t>{0}));
    pages.clear();
    map_.take_dirty_pages(pages);
    EXPECT_TRUE(pages.empty());
    map_.put_back_dirty_page(0);
    map_.take_dirty_pages(pages);
    EXPECT_EQ(pages.size(), 1U);
}

TEST_F(ClusterMapTest, StableIsWhatTheJournalSaid) {
    make_present(5, 3);
    EXPECT_FALSE(map_.all_stable({.first = 5, .count = 1}));
    map_.set_stable_word(0, 0x60);
    EXPECT_TRUE(map_.all_stable({.first = 5, .count = 2}));
    EXPECT_FALSE(map_.all_stable({.first = 5, .count = 3}));
}

/// Threads that claim, or wait for, the same clusters: never two at a time, and nobody waits for
/// ever.
TEST_F(ClusterMapTest, ClaimsOfManyThreadsNeverOverlapAndNoWaiterIsForgotten) {
    constexpr int kThreads = 4;
    constexpr int kRounds = 3000;
    std::atomic<int> inside = 0;
    std::atomic<int> overlaps = 0;

    class Claimer final : public Waiter {
      public:
        Claimer(ClusterMap& map, std::atomic<int>& inside, std::atomic<int>& overlaps)
            : map_(map),
              inside_(inside),
              overlaps_(overlaps),
              worker_(Worker::start({.loop = LoopKind::kAsio}).value()),
              inbox_(*worker_) {
            inbox = &inbox_;
        }

        void start() {
            worker_->post([this] { resume(); });
        }

        void resume() override {
            while (rounds < kRounds) {
                if (!map_.claim_or_wait({.first = 7, .count = 1}, *this)) {
                    return;
                }
                if (inside_.fetch_add(1) != 0) {
                    ++overlaps_;
                }
                // Not each time: beside programs that always run, each is a slice of theirs.
                if (rounds % 16 == 0) {
                    std::this_thread::yield();
                }
                inside_.fetch_sub(1);
                map_.release({.first = 7, .count = 1}, false);
                ++rounds;
            }
        }

        std::atomic<int> rounds = 0;

      private:
        ClusterMap& map_;
        std::atomic<int>& inside_;
        std::atomic<int>& overlaps_;
        std::unique_ptr<Worker> worker_;
        ResumeInbox inbox_;
    };

    std::vector<std::unique_ptr<Claimer>> claimers;
    for (int i = 0; i < kThreads; ++i) {
        claimers.push_back(std::make_unique<Claimer>(map_, inside, overlaps));
    }
    for (const auto& claimer : claimers) {
        claimer->start();
    }
    for (const auto& claimer : claimers) {
        EXPECT_TRUE(eventually([&] { return claimer->rounds == kRounds; }));
    }
    EXPECT_EQ(overlaps, 0);
}

// --- What outlives the process -------------------------------------------------------------------

class KeptBitsTest : public ::testing::Test {
  protected:
    static constexpr LayerHeader kHeader{.layer_id = 7, .cluster_bytes = 4096};

    [[nodiscard]] KeptBits open(const LayerHeader& header = kHeader) const {
        return KeptBits::open(memory_.get(), header, geometry_).value();
    }

    [[nodiscard]] std::unique_ptr<ClusterMap> map_over(const KeptBits& bits) const {
        auto map = std::make_unique<ClusterMap>(geometry_, kClusters);
        map->load_word(0, 1);  // the layer's file has the first cluster alone
        map->keep_in(bits.words());
        return map;
    }

    const LayerGeometry geometry_ = layer_geometry(kClusters * 4096, 4096).value();
    const UniqueFd memory_ = create_shared_memory("kept-bits", KeptBits::bytes(geometry_)).value();
};

TEST_F(KeptBitsTest, AreThereForTheNextProcess) {
    {
        const KeptBits bits = open();
        const auto map = map_over(bits);
        ASSERT_TRUE(map->try_claim({.first = 70, .count = 3}));
        map->release({.first = 70, .count = 3}, true);
        ASSERT_TRUE(map->try_claim({.first = 80, .count = 1}));
        map->release({.first = 80, .count = 1}, false);
        ASSERT_TRUE(map->try_claim({.first = 90, .count = 1}));
    }
    const KeptBits bits = open();
    const auto map = map_over(bits);
    EXPECT_EQ(map->count_present(70, kClusters), 3U);
    EXPECT_FALSE(map->is_present(80));
    EXPECT_FALSE(map->is_present(90));
    EXPECT_EQ(map->present_count(), 4U);
    EXPECT_TRUE(map->all_stable({.first = 0, .count = 1}));
    EXPECT_FALSE(map->all_stable({.first = 70, .count = 1}));
    std::vector<uint64_t> dirty;
    map->take_dirty_pages(dirty);
    EXPECT_EQ(dirty, std::vector<uint64_t>{0}) << "the next commit writes them";
}

TEST_F(KeptBitsTest, OfAnotherLayerAreNone) {
    {
        const KeptBits bits = open();
        std::ranges::fill(bits.words(), ~uint64_t{0});
    }
    const KeptBits bits = open({.layer_id = 8, .cluster_bytes = 4096});
    EXPECT_EQ(map_over(bits)->present_count(), 1U);
}

TEST_F(KeptBitsTest, BehindTheEndOfTheDiskAreNone) {
    const KeptBits bits = open();
    std::ranges::fill(bits.words(), ~uint64_t{0});
    EXPECT_EQ(map_over(bits)->present_count(), kClusters);
    EXPECT_EQ(bits.words().back(), 0U);
}

}  // namespace
}  // namespace outrigger::blk
