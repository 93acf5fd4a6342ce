// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/packed_virtqueue.h"

#include <algorithm>

#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

// An event suppression structure as one 32-bit word: offset and wrap counter in the lower half,
// the flags in the upper. VIRTIO 1.3, 2.8.14.
constexpr uint32_t kEventOffsetMask = 0x7fff;
constexpr uint32_t kEventWrapShift = 15;
constexpr uint32_t kEventFlagsShift = 16;
constexpr uint32_t kEventFlagsMask = 3;
constexpr uint32_t kEventEnable = 0;
constexpr uint32_t kEventDisable = 1;
constexpr uint32_t kEventDescriptor = 2;

}  // namespace

Result<bool, InflightLogError> PackedVirtqueue::resume(std::span<std::byte> log,
                                                       bool base_is_known) {
    if (log.empty()) {
        return false;
    }
    log_.emplace(log, size_);
    auto resumption = OUTRIGGER_TRY(log_->open(next_used_, base_is_known, [this](uint16_t index) {
        // Relaxed: the device that wrote here is gone, and one look decides.
        return load<uint16_t>(entry(index) + kFlags, __ATOMIC_RELAXED);
    }));
    if (!resumption.from_log) {
        return false;
    }
    uint16_t held = 0;
    for (const PackedInflightLog::Chain& chain : resumption.chains) {
        held = static_cast<uint16_t>(held + chain.count);
    }
    // A front end cannot know this after a crash: QEMU tells where the ring was when it started.
    next_used_ = resumption.next_used;
    next_available_ = next_used_.behind(held, size_);
    entries_held_ = held;
    hide_unpublished(held);
    again_.assign(resumption.chains.rbegin(), resumption.chains.rend());
    return true;
}

/// A batch is written from its second entry on before the first one shows it. If whoever wrote it
/// died in between, the driver would take those entries for ours as soon as it has come past the
/// first, whichever chain that is by then. All of them are the device's until it uses them.
void PackedVirtqueue::hide_unpublished(uint16_t entries_held) {
    RingPosition position = next_used_;
    for (uint16_t i = 0; i < entries_held; ++i) {
        std::byte* const flags = entry(position.index) + kFlags;
        // Relaxed, both: the driver does not look here before the next release store of flags.
        const auto found = load<uint16_t>(flags, __ATOMIC_RELAXED);
        if (!is_available(found, position.wrap)) {
            store<uint16_t>(
                flags, position.wrap ? kDescriptorAvailable : kDescriptorUsed, __ATOMIC_RELAXED);
        }
        position = position.behind(1, size_);
    }
}

std::vector<OutcomeJournal::Key> PackedVirtqueue::replayed_keys() const {
    std::vector<OutcomeJournal::Key> keys;
    keys.reserve(again_.size());
    for (const auto& chain : again_) {
        keys.push_back({.entry = chain.first, .counter = chain.counter});
    }
    return keys;
}

Result<bool, RingError> PackedVirtqueue::fetch_again(ChainBuilder& builder,
                                                     const ChainSlots& slots) {
    const PackedInflightLog::Chain chain = again_.back();
    const auto end = read_noted(chain, builder);
    if (!end) {
        return failure(end.error());
    }
    if (slots.is_in_flight(end->id)) {
        return failure(RingError::kHeadInFlight);
    }
    if (const auto finished = builder.finish(end->id, chain.count); !finished) {
        return failure(finished.error());
    }
    builder.slot().inflight_first = chain.first;
    builder.slot().inflight_last = end->entry;
    builder.slot().inflight_counter = chain.counter;
    builder.slot().is_replayed = true;
    again_.pop_back();
    return true;
}

/// The front end may have changed the copies: they are as little trusted as the driver's own.
Result<PackedVirtqueue::ChainEnd, RingError> PackedVirtqueue::read_noted(
    const PackedInflightLog::Chain& chain, ChainBuilder& builder) const {
    uint16_t index = chain.first;
    for (uint16_t count = 1; count <= chain.count; ++count) {
        const Descriptor descriptor = log_->descriptor(index);
        const auto is_last = add(descriptor, builder);
        if (!is_last) {
            return failure(is_last.error());
        }
        if (*is_last != (count == chain.count)) {
            return failure(RingError::kInflightLog);
        }
        if (*is_last) {
            return ChainEnd{.id = descriptor.link, .entry_count = count, .entry = index};
        }
        index = log_->next_of(index);
    }
    return failure(RingError::kInflightLog);
}

void PackedVirtqueue::make_visible() {
    if (log_) {
        log_->note_publishing(next_used_);
    }
    // Release pairs with the driver's barrier behind its load of these flags (VIRTIO 1.3, 2.8.22):
    // the buffers and every other field of the batch come before.
    store<uint16_t>(entry(first_unseen_) + kFlags, first_unseen_flags_, __ATOMIC_RELEASE);
    undecided_entries_ += unseen_entries_;
    entries_held_ = static_cast<uint16_t>(entries_held_ - unseen_entries_);
    unseen_entries_ = 0;
    if (log_) {
        log_->note_published();
    }
}

std::array<AreaRange, 2> PackedVirtqueue::unseen_used() const {
    const size_t count = std::min(unseen_entries_, size_);
    const size_t first = first_unseen_;
    const size_t behind = std::min(count, size_ - first);
    return {{{.offset = first * kDescriptorBytes, .bytes = behind * kDescriptorBytes},
             {.offset = 0, .bytes = (count - behind) * kDescriptorBytes}}};
}

bool PackedVirtqueue::call_wanted() {
    const uint32_t entries = undecided_entries_;
    undecided_entries_ = 0;
    // Pairs with the driver's full barrier between writing its event suppression structure and
    // looking at the next used descriptor once more: one of us sees the other's store.
    ring_memory::full_fence();
    // One load, so that offset and flags belong together. Relaxed: the fence came first.
    const auto event = load<uint32_t>(areas_.driver, __ATOMIC_RELAXED);
    const uint32_t flags = event >> kEventFlagsShift & kEventFlagsMask;
    if (flags == kEventDisable) {
        return false;
    }
    if (flags != kEventDescriptor || !event_idx_ || entries > size_) {
        return true;
    }
    // VIRTIO 1.3, 2.8.10: indices of the lap before count as negative.
    const bool event_wrap = (event >> kEventWrapShift & 1) != 0;
    const uint32_t lap = event_wrap == next_used_.wrap ? 0 : size_;
    const auto offset = static_cast<uint16_t>((event & kEventOffsetMask) - lap);
    return static_cast<uint16_t>(next_used_.index - offset - 1) < entries;
}

void PackedVirtqueue::suppress_kicks() {
    if (!kicks_suppressed_) {
        // Relaxed: a hint; a kick that comes anyway does no harm.
        store<uint32_t>(areas_.device, kEventDisable << kEventFlagsShift, __ATOMIC_RELAXED);
        kicks_suppressed_ = true;
    }
}

uint16_t PackedVirtqueue::available_count() const {
    Position position = next_available_;
    uint16_t count = 0;
    // Relaxed: nothing else of the descriptors is read by it.
    while (count < size_ - entries_held_ &&
           is_available(load<uint16_t>(entry(position.index) + kFlags, __ATOMIC_RELAXED),
                        position.wrap)) {
        position = position.behind(1, size_);
        ++count;
    }
    return count;
}

bool PackedVirtqueue::enable_kicks() {
    kicks_suppressed_ = false;
    const uint32_t position = next_available_.index | uint32_t{next_available_.wrap}
                                                          << kEventWrapShift;
    store<uint32_t>(areas_.device,
                    event_idx_ ? position | kEventDescriptor << kEventFlagsShift
                               : kEventEnable << kEventFlagsShift,
                    __ATOMIC_RELAXED);
    // Pairs with the driver's full barrier between writing a descriptor's flags and reading this
    // structure (VIRTIO 1.3, 2.8.21.3): it kicks, or we see its descriptor here.
    ring_memory::full_fence();
    return has_available();
}

}  // namespace outrigger
