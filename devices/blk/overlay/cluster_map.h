// SPDX-License-Identifier: Apache-2.0
/// Which clusters of an overlay are in its layer, and which are on their way there: one map for
/// all queues of the image. Looking at it takes no lock; claims take one only to wait.
///
/// A cluster is absent until somebody who has claimed it has put all of its data into the layer.
/// Then it is present, for ever (until the layer is discarded as a whole), and once its bit is on
/// stable storage it is stable.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "devices/blk/overlay/layer_format.h"
#include "devices/blk/overlay/waiter.h"

namespace outrigger::blk {

/// Clusters one behind the other. Those of a claim lie in one word of the bitmap.
struct ClusterRun {
    uint64_t first = 0;
    uint64_t count = 0;
};

/// All members may be called from any thread, but for what says otherwise.
class ClusterMap final {
  public:
    /// `base_clusters`: so many of them, from the first, have data in the base.
    ClusterMap(const LayerGeometry& geometry, uint64_t base_clusters);

    [[nodiscard]] uint64_t cluster_count() const { return geometry_.cluster_count; }

    [[nodiscard]] uint64_t base_clusters() const { return base_clusters_; }

    /// Present ones among the clusters of the base, and among all.
    [[nodiscard]] uint64_t present_in_base() const;
    [[nodiscard]] uint64_t present_count() const;

    // --- Looking ---------------------------------------------------------------------------------

    [[nodiscard]] bool is_present(uint64_t cluster) const {
        // Acquire: pairs with the release in mark_present(): who sees the bit sees the data.
        const uint64_t word = present_[cluster / kClustersPerWord].load(std::memory_order_acquire);
        return (word >> (cluster % kClustersPerWord) & 1) != 0;
    }

    /// How many clusters from `first` on, and below `end`, are all present, or all absent. May be
    /// 0, also right behind is_present(): other threads make clusters present at any time.
    [[nodiscard]] uint64_t count_present(uint64_t first, uint64_t end) const {
        return count_alike(first, end, 0);
    }

    [[nodiscard]] uint64_t count_absent(uint64_t first, uint64_t end) const {
        return count_alike(first, end, ~uint64_t{0});
    }

    [[nodiscard]] bool any_present(ClusterRun run) const;
    [[nodiscard]] bool all_stable(ClusterRun run) const;

    /// The first absent cluster in [first, end) and those behind it in the same word, at most
    /// `count_max` (> 0). Nothing when all are present. Skips what others have claimed.
    [[nodiscard]] std::optional<ClusterRun> find_absent(uint64_t first,
                                                        uint64_t end,
                                                        uint64_t count_max) const;

    /// `run` cut at the end of the word in which it begins.
    [[nodiscard]] static ClusterRun within_word(ClusterRun run);

    // --- Claims ----------------------------------------------------------------------------------

    /// False when somebody has a part of `run`, which lies in one word. Who has claimed it must
    /// look once more whether it is still absent, and release it.
    [[nodiscard]] bool try_claim(ClusterRun run);

    /// Like try_claim(); but when it is false, `waiter` is resumed as soon as a claim in that word
    /// was released.
    [[nodiscard]] bool claim_or_wait(ClusterRun run, Waiter& waiter);

    /// `now_present`: the layer holds all data of the run.
    void release(ClusterRun run, bool now_present);

    // --- Of the journal, on one thread -----------------------------------------------------------

    /// Sets what the file says. Before the map is shared.
    void load_word(uint64_t word, uint64_t bits);

    /// Behind that: what is set in `words` is present, too, and not stable. From now on they have
    /// all that is, before anybody sees it. Borrowed for the map's life; before the map is shared.
    void keep_in(std::span<uint64_t> words);

    [[nodiscard]] uint64_t present_word(uint64_t word) const {
        // Acquire: pairs with the release in mark_present().
        return present_[word].load(std::memory_order_acquire);
    }

    /// Appends the pages with bits that came since they were last taken; their bits must be read
    /// afterwards.
    void take_dirty_pages(std::vector<uint64_t>& pages);
    /// They could not be written.
    void put_back_dirty_page(uint64_t page);

    /// Those bits of the word are on stable storage.
    void set_stable_word(uint64_t word, uint64_t bits);

  private:
    using Words = std::unique_ptr<std::atomic<uint64_t>[]>;

    struct Shard {
        std::atomic<uint32_t> waiting = 0;  ///< those in the list, or about to be
        std::mutex mutex;
        WaiterList waiters;  // guarded by mutex
    };

    static constexpr size_t kShards = 64;

    [[nodiscard]] uint64_t count_alike(uint64_t first, uint64_t end, uint64_t flip) const;
    void mark_present(uint64_t word, uint64_t mask);
    void resume_waiters(uint64_t word);

    [[nodiscard]] Shard& shard_of(uint64_t word) { return shards_[word % kShards]; }

    const LayerGeometry geometry_;
    const uint64_t base_clusters_;
    const uint64_t word_count_;
    Words present_;
    Words claimed_;
    Words stable_;
    std::span<uint64_t> kept_;  // empty, or a word for each of the above
    std::unique_ptr<std::atomic<bool>[]> page_dirty_;
    std::atomic<bool> any_dirty_ = false;
    std::atomic<uint64_t> present_count_ = 0;
    std::atomic<uint64_t> present_in_base_ = 0;
    std::array<Shard, kShards> shards_;
};

}  // namespace outrigger::blk
