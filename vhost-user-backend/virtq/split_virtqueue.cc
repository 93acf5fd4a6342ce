// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/split_virtqueue.h"

#include <algorithm>

#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

constexpr uint16_t kAvailableNoInterrupt = 1;
constexpr uint16_t kUsedNoNotify = 1;

}  // namespace

Result<bool, InflightLogError> SplitVirtqueue::resume(std::span<std::byte> log,
                                                      bool base_is_known) {
    // Only the device writes this field, and the device that ran the ring before is gone.
    next_used_ = load<uint16_t>(areas_.device + kIndex, __ATOMIC_RELAXED);
    visible_used_ = next_used_;
    decided_used_ = next_used_;
    if (log.empty()) {
        return false;
    }
    log_.emplace(log, size_);
    auto resumption = OUTRIGGER_TRY(log_->open(next_used_, base_is_known));
    if (!resumption.from_log) {
        return false;
    }
    // What front ends tell after a crash is the used index, or the driver's own (QEMU and
    // cloud-hypervisor), and neither counts what was in flight.
    start(static_cast<uint16_t>(next_used_ + resumption.chains.size()));
    again_.assign(resumption.chains.rbegin(), resumption.chains.rend());
    return true;
}

std::vector<OutcomeJournal::Key> SplitVirtqueue::replayed_keys() const {
    std::vector<OutcomeJournal::Key> keys;
    keys.reserve(again_.size());
    for (const auto& chain : again_) {
        keys.push_back({.entry = chain.head, .counter = chain.counter});
    }
    return keys;
}

Result<bool, RingError> SplitVirtqueue::fetch_again(ChainBuilder& builder,
                                                    const ChainSlots& slots) {
    // Its descriptors are where they were: they are not the driver's before it sees them used.
    const SplitInflightLog::Chain chain = again_.back();
    if (const auto fetched = fetch_head(chain.head, builder, slots); !fetched) {
        return failure(fetched.error());
    }
    builder.slot().inflight_counter = chain.counter;
    builder.slot().is_replayed = true;
    again_.pop_back();
    return true;
}

void SplitVirtqueue::make_visible() {
    // Release pairs with the driver's barrier behind its load of this index (VIRTIO 1.3, 2.7.14):
    // what the device wrote to the buffers and the used entries comes before.
    store<uint16_t>(areas_.device + kIndex, next_used_, __ATOMIC_RELEASE);
    visible_used_ = next_used_;
    if (log_) {
        log_->note_published(next_used_);
    }
}

std::array<AreaRange, 2> SplitVirtqueue::unseen_used() const {
    const size_t count = std::min<size_t>(static_cast<uint16_t>(next_used_ - visible_used_), size_);
    const size_t first = visible_used_ & mask();
    const size_t behind = std::min(count, size_ - first);
    return {{{.offset = kEntries + first * kUsedEntryBytes, .bytes = behind * kUsedEntryBytes},
             {.offset = kEntries, .bytes = (count - behind) * kUsedEntryBytes}}};
}

bool SplitVirtqueue::call_wanted() {
    const uint16_t before = decided_used_;
    decided_used_ = visible_used_;
    // Pairs with the driver's full barrier between writing used_event (or clearing NO_INTERRUPT)
    // and looking at the used index once more: one of us sees the other's store.
    ring_memory::full_fence();
    if (!event_idx_) {
        const auto flags = load<uint16_t>(areas_.driver + kFlags, __ATOMIC_RELAXED);
        return (flags & kAvailableNoInterrupt) == 0;
    }
    const auto event = load<uint16_t>(
        areas_.driver + kEntries + size_t{size_} * kAvailableEntryBytes, __ATOMIC_RELAXED);
    // VIRTIO 1.3, 2.7.7.2: does any of the indices [before, visible) equal the event?
    return static_cast<uint16_t>(visible_used_ - event - 1) <
           static_cast<uint16_t>(visible_used_ - before);
}

void SplitVirtqueue::suppress_kicks() {
    if (event_idx_) {
        // The event index stays where it was: behind every index that the driver will write.
        // VIRTIO 1.3, 2.7.10.1 wants the flag to be 0.
        return;
    }
    if (!kicks_suppressed_) {
        // Relaxed: a hint; a kick that comes anyway does no harm.
        store<uint16_t>(areas_.device + kFlags, kUsedNoNotify, __ATOMIC_RELAXED);
        kicks_suppressed_ = true;
    }
}

uint16_t SplitVirtqueue::available_count() const {
    // Relaxed: nothing of the heads is read by it.
    const auto available = load<uint16_t>(areas_.driver + kIndex, __ATOMIC_RELAXED);
    return std::min(static_cast<uint16_t>(available - next_available_), size_);
}

bool SplitVirtqueue::enable_kicks() {
    kicks_suppressed_ = false;
    if (event_idx_) {
        store<uint16_t>(areas_.device + kEntries + size_t{size_} * kUsedEntryBytes,
                        next_available_,
                        __ATOMIC_RELAXED);
    }
    // Also with EVENT_IDX: a device that ran this ring before may have left the flag set.
    store<uint16_t>(areas_.device + kFlags, 0, __ATOMIC_RELAXED);
    // Pairs with the driver's full barrier between writing the available index and reading
    // avail_event or the flag (VIRTIO 1.3, 2.7.13.4.1): it kicks, or we see its index here.
    ring_memory::full_fence();
    return has_available();
}

}  // namespace outrigger
