// SPDX-License-Identifier: Apache-2.0
/// Which memory snapshots a ring and its chains still need. A chain pins the snapshot it was popped
/// under; counting that is a plain increment, because all of it happens on the queue's worker.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "vhost-user-backend/guest/memory_snapshot.h"

namespace outrigger {

/// Thread-bound: queue worker.
class MemoryLeases final {
  public:
    explicit MemoryLeases(std::shared_ptr<const MemorySnapshot> memory) {
        leases_.push_back({.memory = std::move(memory)});
    }

    /// The snapshot that new chains are popped under.
    [[nodiscard]] const MemorySnapshot& current() const { return *leases_[current_].memory; }

    /// The same, to share.
    [[nodiscard]] const std::shared_ptr<const MemorySnapshot>& current_pointer() const {
        return leases_[current_].memory;
    }

    /// What a lease that was not given back pins.
    [[nodiscard]] const MemorySnapshot& pinned(uint32_t lease) const {
        return *leases_[lease].memory;
    }

    /// Pins the current snapshot for one chain; returns the lease to give back.
    [[nodiscard]] uint32_t pin() {
        ++leases_[current_].chain_count;
        return current_;
    }

    void unpin(uint32_t lease) {
        if (--leases_[lease].chain_count == 0 && lease != current_) [[unlikely]] {
            // This may unmap regions: the last ring to let go does it.
            leases_[lease].memory.reset();
            --old_count_;
        }
    }

    /// Was a region lost that the current snapshot or a pinned one holds?
    [[nodiscard]] bool any_region_lost() const {
        return std::ranges::any_of(leases_, [](const Lease& lease) {
            return lease.memory != nullptr && lease.memory->any_region_lost();
        });
    }

    void adopt(std::shared_ptr<const MemorySnapshot> memory);

    /// How many older snapshots are still pinned.
    [[nodiscard]] size_t old_count() const { return old_count_; }

  private:
    struct Lease {
        std::shared_ptr<const MemorySnapshot> memory;  // null: free for reuse
        uint32_t chain_count = 0;
    };

    std::vector<Lease> leases_;  // at most one more than there are chains in flight
    uint32_t current_ = 0;
    size_t old_count_ = 0;
};

}  // namespace outrigger
