// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/cluster_map.h"

#include <algorithm>
#include <bit>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

uint64_t word_of(uint64_t cluster) {
    return cluster / kClustersPerWord;
}

/// The bits of a run that lies in one word.
uint64_t mask_of(ClusterRun run) {
    const uint64_t shift = run.first % kClustersPerWord;
    OUTRIGGER_ASSERT(run.count > 0 && run.count <= kClustersPerWord - shift);
    return (~uint64_t{0} >> (kClustersPerWord - run.count)) << shift;
}

/// How many bits of `word` from `shift` on are set.
uint64_t ones_from(uint64_t word, uint64_t shift) {
    return static_cast<uint64_t>(std::countr_one(word >> shift));
}

}  // namespace

ClusterMap::ClusterMap(const LayerGeometry& geometry, uint64_t base_clusters)
    : geometry_(geometry),
      base_clusters_(std::min(base_clusters, geometry.cluster_count)),
      word_count_(geometry.page_count * kWordsPerPage),
      present_(std::make_unique<std::atomic<uint64_t>[]>(word_count_)),
      claimed_(std::make_unique<std::atomic<uint64_t>[]>(word_count_)),
      stable_(std::make_unique<std::atomic<uint64_t>[]>(word_count_)),
      page_dirty_(std::make_unique<std::atomic<bool>[]>(geometry.page_count)) {}

uint64_t ClusterMap::present_in_base() const {
    return present_in_base_.load(std::memory_order_relaxed);
}

uint64_t ClusterMap::present_count() const {
    return present_count_.load(std::memory_order_relaxed);
}

/// `flip` makes the bits that count ones. Each word is looked at once.
uint64_t ClusterMap::count_alike(uint64_t first, uint64_t end, uint64_t flip) const {
    uint64_t cluster = first;
    while (cluster < end) {
        const uint64_t shift = cluster % kClustersPerWord;
        const uint64_t found = ones_from(present_word(word_of(cluster)) ^ flip, shift);
        cluster += found;
        if (shift + found < kClustersPerWord) {
            break;
        }
    }
    return std::min(cluster, end) - first;
}

bool ClusterMap::any_present(ClusterRun run) const {
    return (present_word(word_of(run.first)) & mask_of(run)) != 0;
}

bool ClusterMap::all_stable(ClusterRun run) const {
    while (run.count > 0) {
        const ClusterRun part = within_word(run);
        const uint64_t mask = mask_of(part);
        // Acquire: pairs with the release in set_stable_word(). A stale answer costs a sync.
        if ((stable_[word_of(part.first)].load(std::memory_order_acquire) & mask) != mask) {
            return false;
        }
        run = {.first = run.first + part.count, .count = run.count - part.count};
    }
    return true;
}

ClusterRun ClusterMap::within_word(ClusterRun run) {
    const uint64_t left = kClustersPerWord - run.first % kClustersPerWord;
    return {.first = run.first, .count = std::min(run.count, left)};
}

std::optional<ClusterRun> ClusterMap::find_absent(uint64_t first,
                                                  uint64_t end,
                                                  uint64_t count_max) const {
    while (first < end) {
        const uint64_t word = word_of(first);
        const uint64_t taken = present_word(word) | claimed_[word].load(std::memory_order_relaxed);
        const uint64_t shift = first % kClustersPerWord;
        const uint64_t skipped = ones_from(taken, shift);
        if (shift + skipped >= kClustersPerWord) {
            first += kClustersPerWord - shift;
            continue;
        }
        first += skipped;
        if (first >= end) {
            break;
        }
        const uint64_t room = kClustersPerWord - (shift + skipped);
        const uint64_t count = std::min(ones_from(~taken, shift + skipped), room);
        return ClusterRun{.first = first, .count = std::min({count, count_max, end - first})};
    }
    return std::nullopt;
}

// --- Claims --------------------------------------------------------------------------------------

// Claims and the counts of waiters are sequentially consistent: who is about to wait counts itself
// and then looks at the claim; who releases takes the claim away and then looks at the count. One
// of the two sees the other.

bool ClusterMap::try_claim(ClusterRun run) {
    const uint64_t mask = mask_of(run);
    std::atomic<uint64_t>& claimed = claimed_[word_of(run.first)];
    uint64_t before = claimed.load();
    do {
        if ((before & mask) != 0) {
            return false;
        }
    } while (!claimed.compare_exchange_weak(before, before | mask));
    return true;
}

bool ClusterMap::claim_or_wait(ClusterRun run, Waiter& waiter) {
    if (try_claim(run)) {
        return true;
    }
    const uint64_t word = word_of(run.first);
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    shard.waiting.fetch_add(1);
    if (try_claim(run)) {
        shard.waiting.fetch_sub(1);
        return true;
    }
    waiter.wait_word = word;
    shard.waiters.push(waiter);
    return false;
}

void ClusterMap::release(ClusterRun run, bool now_present) {
    const uint64_t word = word_of(run.first);
    const uint64_t mask = mask_of(run);
    if (now_present) {
        mark_present(word, mask);
    }
    const uint64_t before = claimed_[word].fetch_and(~mask);
    OUTRIGGER_ASSERT((before & mask) == mask);
    if (shard_of(word).waiting.load() != 0) {
        resume_waiters(word);
    }
}

void ClusterMap::resume_waiters(uint64_t word) {
    WaiterList resumed;
    {
        Shard& shard = shard_of(word);
        const std::lock_guard lock(shard.mutex);
        WaiterList rest;
        while (Waiter* const waiter = shard.waiters.pop()) {
            if (waiter->wait_word == word) {
                shard.waiting.fetch_sub(1);
                resumed.push(*waiter);
            } else {
                rest.push(*waiter);
            }
        }
        shard.waiters = rest;
    }
    while (Waiter* const waiter = resumed.pop()) {
        waiter->inbox->push(*waiter);
    }
}

void ClusterMap::mark_present(uint64_t word, uint64_t mask) {
    if (!kept_.empty()) {
        // First: who sees the bit below may write there and say so to the guest, and then it must
        // be kept. Release: who reads this after our death finds the data.
        std::atomic_ref(kept_[word]).fetch_or(mask, std::memory_order_release);
    }
    // Release: pairs with the acquire of is_present() and present_word(): the data came before.
    const uint64_t before = present_[word].fetch_or(mask, std::memory_order_release);
    const uint64_t fresh = mask & ~before;
    const uint64_t first = word * kClustersPerWord;
    present_count_.fetch_add(static_cast<uint64_t>(std::popcount(fresh)),
                             std::memory_order_relaxed);
    if (first < base_clusters_) {
        const uint64_t left = base_clusters_ - first;
        const uint64_t of_base =
            left >= kClustersPerWord ? fresh : fresh & ((uint64_t{1} << left) - 1);
        present_in_base_.fetch_add(static_cast<uint64_t>(std::popcount(of_base)),
                                   std::memory_order_relaxed);
    }
    // Sequentially consistent, and behind the bit: pair with the exchanges in take_dirty_pages(),
    // which reads bits after flags.
    page_dirty_[word / kWordsPerPage].store(true);
    any_dirty_.store(true);
}

// --- Of the journal ------------------------------------------------------------------------------

void ClusterMap::load_word(uint64_t word, uint64_t bits) {
    mark_present(word, bits);
    set_stable_word(word, bits);
    page_dirty_[word / kWordsPerPage].store(false);
    any_dirty_.store(false);
}

void ClusterMap::keep_in(std::span<uint64_t> words) {
    OUTRIGGER_ASSERT(words.size() == word_count_);
    for (uint64_t word = 0; word < word_count_; ++word) {
        // Relaxed: who wrote it is dead.
        const uint64_t found = std::atomic_ref(words[word]).load(std::memory_order_relaxed);
        const uint64_t loaded = present_[word].load(std::memory_order_relaxed);
        const uint64_t fresh = found & geometry_.valid_bits(word) & ~loaded;
        if (fresh != 0) {
            mark_present(word, fresh);
        }
        std::atomic_ref(words[word]).store(loaded | fresh, std::memory_order_relaxed);
    }
    kept_ = words;
}

void ClusterMap::take_dirty_pages(std::vector<uint64_t>& pages) {
    // Flags before bits: see mark_present().
    if (!any_dirty_.exchange(false)) {
        return;
    }
    for (uint64_t page = 0; page < geometry_.page_count; ++page) {
        if (page_dirty_[page].exchange(false)) {
            pages.push_back(page);
        }
    }
}

void ClusterMap::put_back_dirty_page(uint64_t page) {
    page_dirty_[page].store(true);
    any_dirty_.store(true);
}

void ClusterMap::set_stable_word(uint64_t word, uint64_t bits) {
    // Release: pairs with the acquire in all_stable().
    stable_[word].store(bits, std::memory_order_release);
}

}  // namespace outrigger::blk
