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

void PackedVirtqueue::make_visible() {
    // Release pairs with the driver's barrier behind its load of these flags (VIRTIO 1.3, 2.8.22):
    // the buffers and every other field of the batch come before.
    store<uint16_t>(entry(first_unseen_) + kFlags, first_unseen_flags_, __ATOMIC_RELEASE);
    undecided_entries_ += unseen_entries_;
    entries_held_ = static_cast<uint16_t>(entries_held_ - unseen_entries_);
    unseen_entries_ = 0;
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
