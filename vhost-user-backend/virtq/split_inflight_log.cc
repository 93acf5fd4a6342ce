// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/split_inflight_log.h"

#include <algorithm>
#include <utility>

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

/// No log of ours comes so far; more would wrap around while we count on.
constexpr uint64_t kCounterMax = uint64_t{1} << 62;

}  // namespace

/// A copy of the log, taken once.
struct SplitInflightLog::Found {
    struct Entry {
        uint64_t counter;
        uint16_t next;
        bool in_flight;
    };

    uint16_t last_batch_head = 0;
    uint16_t used_index = 0;
    size_t in_flight = 0;
    std::vector<Entry> entries;
};

SplitInflightLog::SplitInflightLog(std::span<std::byte> part, uint16_t ring_size)
    : part_(part.data()), ring_size_(ring_size) {
    batch_.reserve(ring_size);
}

/// Relaxed everywhere: whoever wrote this is dead, and what a front end writes now is its affair.
Result<SplitInflightLog::Found, InflightLogError> SplitInflightLog::read() const {
    if (load<uint16_t>(part_ + SplitInflight::kEntryCount, __ATOMIC_RELAXED) != ring_size_ ||
        load<uint64_t>(part_ + SplitInflight::kFeatures, __ATOMIC_RELAXED) != 0) {
        return failure(InflightLogError::kVersion);
    }
    Found found{
        .last_batch_head = load<uint16_t>(part_ + SplitInflight::kLastBatchHead, __ATOMIC_RELAXED),
        .used_index = load<uint16_t>(part_ + SplitInflight::kUsedIndex, __ATOMIC_RELAXED),
        .entries = std::vector<Found::Entry>(ring_size_)};
    for (uint16_t index = 0; index < ring_size_; ++index) {
        const std::byte* const at = entry(index);
        found.entries[index] = {
            .counter = load<uint64_t>(at + SplitInflight::kCounter, __ATOMIC_RELAXED),
            .next = load<uint16_t>(at + SplitInflight::kNext, __ATOMIC_RELAXED),
            .in_flight = load<uint8_t>(at + SplitInflight::kInflight, __ATOMIC_RELAXED) != 0};
        found.in_flight += found.entries[index].in_flight ? 1U : 0U;
    }
    return found;
}

void SplitInflightLog::begin(uint16_t used_index) {
    // A reader after our death in the midst of this finds no log.
    store<uint16_t>(part_ + SplitInflight::kVersion, SplitInflight::kVersionNone, __ATOMIC_RELAXED);
    // Release, in each store: behind the one before it.
    store<uint64_t>(part_ + SplitInflight::kFeatures, 0, __ATOMIC_RELEASE);
    store<uint16_t>(part_ + SplitInflight::kEntryCount, ring_size_, __ATOMIC_RELEASE);
    store<uint16_t>(part_ + SplitInflight::kLastBatchHead, 0, __ATOMIC_RELEASE);
    // Not 0: after a migration the ring does not begin there, and a successor would take the
    // difference for a batch.
    store<uint16_t>(part_ + SplitInflight::kUsedIndex, used_index, __ATOMIC_RELEASE);
    for (uint16_t index = 0; index < ring_size_; ++index) {
        store<uint8_t>(entry(index) + SplitInflight::kInflight, 0, __ATOMIC_RELEASE);
    }
    store<uint16_t>(part_ + SplitInflight::kVersion, SplitInflight::kVersionOne, __ATOMIC_RELEASE);
    last_batch_head_ = 0;
    next_counter_ = 0;
}

Result<SplitInflightLog::Resumption, InflightLogError> SplitInflightLog::open(uint16_t used_index,
                                                                              bool base_is_known) {
    auto resumption = take_up(used_index, base_is_known);
    if (!resumption && base_is_known && resumption.error() != InflightLogError::kVersion) {
        // What contradicts itself is of an earlier life of the ring.
        begin(used_index);
        return Resumption{};
    }
    return resumption;
}

Result<SplitInflightLog::Resumption, InflightLogError> SplitInflightLog::take_up(
    uint16_t used_index, bool base_is_known) {
    const auto version = load<uint16_t>(part_ + SplitInflight::kVersion, __ATOMIC_RELAXED);
    if (version == SplitInflight::kVersionNone) {
        begin(used_index);
        return Resumption{};
    }
    if (version != SplitInflight::kVersionOne) {
        return failure(InflightLogError::kVersion);
    }
    auto found = read();
    if (!found && !base_is_known) {
        return failure(found.error());
    }
    if (!found) {
        begin(used_index);
        return Resumption{};
    }
    last_batch_head_ = found->last_batch_head < ring_size_ ? found->last_batch_head : uint16_t{0};
    if (found->in_flight == 0) {
        // Nothing to take up, whatever the indices say: the ring may be a new one. The version
        // stays, for whoever comes after our death in the midst of this.
        store<uint16_t>(part_ + SplitInflight::kUsedIndex, used_index, __ATOMIC_RELEASE);
        return Resumption{.from_log = !base_is_known, .chains = {}};
    }
    // What was published before the log said so. More than a ring holds cannot be: then the log
    // belongs to an earlier life of the ring.
    const auto batch = static_cast<uint16_t>(used_index - found->used_index);
    if (batch > ring_size_) {
        return failure(InflightLogError::kIndex);
    }
    uint16_t head = found->last_batch_head;
    for (uint16_t i = 0; i < batch; ++i) {
        if (head >= ring_size_) {
            return failure(InflightLogError::kIndex);
        }
        found->entries[head].in_flight = false;
        // Release, here and below: in this order for the next reader.
        store<uint8_t>(entry(head) + SplitInflight::kInflight, 0, __ATOMIC_RELEASE);
        head = found->entries[head].next;
    }
    // Release: behind the marks of the batch.
    store<uint16_t>(part_ + SplitInflight::kUsedIndex, used_index, __ATOMIC_RELEASE);
    Resumption resumption{.from_log = true, .chains = {}};
    for (uint16_t index = 0; index < ring_size_; ++index) {
        const Found::Entry& noted = found->entries[index];
        if (noted.in_flight) {
            if (noted.counter > kCounterMax) {
                return failure(InflightLogError::kCounter);
            }
            resumption.chains.push_back({.head = index, .counter = noted.counter});
            next_counter_ = std::max(next_counter_, noted.counter + 1);
        }
    }
    std::ranges::sort(resumption.chains, {}, [](const Chain& chain) {
        return std::pair(chain.counter, chain.head);
    });
    return resumption;
}

}  // namespace outrigger
