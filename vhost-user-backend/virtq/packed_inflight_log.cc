// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/packed_inflight_log.h"

#include <algorithm>
#include <utility>

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

/// No log of ours comes so far; more would wrap around while we count on.
constexpr uint64_t kCounterMax = uint64_t{1} << 62;

uint16_t lower_half(uint32_t word) {
    return static_cast<uint16_t>(word);
}

uint16_t upper_half(uint32_t word) {
    return static_cast<uint16_t>(word >> 16);
}

}  // namespace

PackedInflightLog::PackedInflightLog(std::span<std::byte> part, uint16_t ring_size)
    : part_(part.data()), ring_size_(ring_size), next_(ring_size) {
    batch_.reserve(ring_size);
}

Descriptor PackedInflightLog::descriptor(uint16_t index) const {
    const std::byte* const at = entry(index);
    return {.address = load<uint64_t>(at + PackedInflight::kAddress, __ATOMIC_RELAXED),
            .length = load<uint32_t>(at + PackedInflight::kLength, __ATOMIC_RELAXED),
            .flags = load<uint16_t>(at + PackedInflight::kFlags, __ATOMIC_RELAXED),
            .link = load<uint16_t>(at + PackedInflight::kId, __ATOMIC_RELAXED)};
}

void PackedInflightLog::begin(RingPosition next_used) {
    // A reader after our death in the midst of this finds no log.
    store<uint16_t>(
        part_ + PackedInflight::kVersion, PackedInflight::kVersionNone, __ATOMIC_RELAXED);
    // Release, in each store: behind the one before it.
    store<uint64_t>(part_ + PackedInflight::kFeatures, 0, __ATOMIC_RELEASE);
    store<uint16_t>(part_ + PackedInflight::kEntryCount, ring_size_, __ATOMIC_RELEASE);
    for (uint16_t index = 0; index < ring_size_; ++index) {
        next_[index] = static_cast<uint16_t>(index + 1);
        store<uint8_t>(entry(index) + PackedInflight::kInflight, 0, __ATOMIC_RELEASE);
        store<uint16_t>(entry(index) + PackedInflight::kNext, next_[index], __ATOMIC_RELEASE);
    }
    free_head_ = 0;
    cursor_ = 0;
    next_counter_ = 0;
    used_ = next_used;
    store_free_heads(free_head_, free_head_);
    store_positions(used_, used_);
    // Release: last, for a reader after our death.
    store<uint16_t>(
        part_ + PackedInflight::kVersion, PackedInflight::kVersionOne, __ATOMIC_RELEASE);
}

/// Relaxed everywhere: whoever wrote this is dead, and what a front end writes now is its affair.
Result<PackedInflightLog::Found, InflightLogError> PackedInflightLog::read() const {
    Found found;
    const auto version = load<uint16_t>(part_ + PackedInflight::kVersion, __ATOMIC_RELAXED);
    if (version == PackedInflight::kVersionNone) {
        return found;
    }
    if (version != PackedInflight::kVersionOne) {
        return failure(InflightLogError::kVersion);
    }
    const auto heads = load<uint32_t>(part_ + PackedInflight::kFreeHeads, __ATOMIC_RELAXED);
    const auto positions = load<uint64_t>(part_ + PackedInflight::kUsedPositions, __ATOMIC_RELAXED);
    found.exists = true;
    found.free_head = lower_half(heads);
    found.free_before = upper_half(heads);
    found.used = {.index = lower_half(static_cast<uint32_t>(positions)),
                  .wrap = (positions >> 32 & 1) != 0};
    found.used_before = {.index = upper_half(static_cast<uint32_t>(positions)),
                         .wrap = (positions >> 40 & 1) != 0};
    found.is_valid =
        load<uint16_t>(part_ + PackedInflight::kEntryCount, __ATOMIC_RELAXED) == ring_size_ &&
        load<uint64_t>(part_ + PackedInflight::kFeatures, __ATOMIC_RELAXED) == 0 &&
        found.used.index < ring_size_ && found.used_before.index < ring_size_;
    if (!found.is_valid) {
        return found;
    }
    found.is_between_batches = found.used != found.used_before;
    found.entries.resize(ring_size_);
    for (uint16_t index = 0; index < ring_size_; ++index) {
        const std::byte* const at = entry(index);
        found.entries[index] = {
            .counter = load<uint64_t>(at + PackedInflight::kCounter, __ATOMIC_RELAXED),
            .next = load<uint16_t>(at + PackedInflight::kNext, __ATOMIC_RELAXED),
            .last = load<uint16_t>(at + PackedInflight::kLast, __ATOMIC_RELAXED),
            .count = load<uint16_t>(at + PackedInflight::kCount, __ATOMIC_RELAXED),
            .in_flight = load<uint8_t>(at + PackedInflight::kInflight, __ATOMIC_RELAXED) != 0};
    }
    return found;
}

/// Which entries are in the list of free ones.
Result<std::vector<bool>, InflightLogError> PackedInflightLog::free_entries(
    const Found& found) const {
    std::vector<bool> is_free(ring_size_);
    for (uint16_t index = found.free_head; index != ring_size_; index = found.entries[index].next) {
        if (index > ring_size_) {
            return failure(InflightLogError::kIndex);
        }
        if (is_free[index]) {
            return failure(InflightLogError::kList);
        }
        is_free[index] = true;
    }
    return is_free;
}

/// The chains in flight, oldest first. Each entry belongs to one of them, or is free.
Result<std::vector<PackedInflightLog::Chain>, InflightLogError> PackedInflightLog::chains_in(
    const Found& found, std::vector<bool> seen) const {
    std::vector<Chain> chains;
    for (uint16_t first = 0; first < ring_size_; ++first) {
        const Found::Entry& head = found.entries[first];
        if (seen[first] || !head.in_flight) {
            continue;
        }
        if (head.counter > kCounterMax) {
            return failure(InflightLogError::kCounter);
        }
        uint16_t index = first;
        for (uint16_t i = 1;; ++i) {
            if (index >= ring_size_) {
                return failure(InflightLogError::kIndex);
            }
            if (seen[index]) {
                return failure(InflightLogError::kList);
            }
            seen[index] = true;
            if (index == head.last || i >= head.count) {
                if (index != head.last || i != head.count) {
                    return failure(InflightLogError::kList);
                }
                break;
            }
            index = found.entries[index].next;
        }
        chains.push_back({.first = first, .count = head.count, .counter = head.counter});
    }
    if (std::ranges::find(seen, false) != seen.end()) {
        return failure(InflightLogError::kList);
    }
    std::ranges::sort(
        chains, {}, [](const Chain& chain) { return std::pair(chain.counter, chain.first); });
    return chains;
}

Result<PackedInflightLog::Resumption, InflightLogError> PackedInflightLog::resume(
    Found& found, RingPosition next_used, bool base_is_known) {
    if (!found.exists || (!found.is_valid && base_is_known)) {
        begin(next_used);
        return Resumption{.from_log = false, .next_used = next_used, .chains = {}};
    }
    if (!found.is_valid) {
        return failure(InflightLogError::kVersion);
    }
    // The driver has seen the batch, or it has not; with its flags all of it.
    if (found.is_between_batches && !found.was_published) {
        found.used = found.used_before;
    }
    if (!found.is_between_batches || !found.was_published) {
        found.free_head = found.free_before;
    }
    const auto is_free = free_entries(found);
    auto chains = is_free ? chains_in(found, *is_free) : failure(is_free.error());
    if (!chains && base_is_known) {
        begin(next_used);
        return Resumption{.from_log = false, .next_used = next_used, .chains = {}};
    }
    if (!chains) {
        return failure(chains.error());
    }
    const bool from_log = !base_is_known || !chains->empty();
    if (!from_log) {
        // The ring stopped with nothing in flight, and may have become a new one since.
        found.used = next_used;
    }
    for (uint16_t index = 0; index < ring_size_; ++index) {
        next_[index] = found.entries[index].next;
        if ((*is_free)[index]) {
            store<uint8_t>(entry(index) + PackedInflight::kInflight, 0, __ATOMIC_RELEASE);
        }
    }
    free_head_ = found.free_head;
    cursor_ = free_head_;
    used_ = found.used;
    next_counter_ = chains->empty() ? 0 : chains->back().counter + 1;
    store_free_heads(free_head_, free_head_);
    store_positions(used_, used_);
    return Resumption{.from_log = from_log, .next_used = used_, .chains = *std::move(chains)};
}

}  // namespace outrigger
