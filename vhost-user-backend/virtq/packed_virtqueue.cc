// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/packed_virtqueue.h"

#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

// Offsets within a descriptor. VIRTIO 1.3, 2.8.13.
constexpr size_t kAddress = 0;
constexpr size_t kLength = 8;
constexpr size_t kId = 12;
constexpr size_t kFlags = 14;

// An event suppression structure as one 32-bit word: offset and wrap counter in the lower half,
// the flags in the upper. VIRTIO 1.3, 2.8.14.
constexpr uint32_t kEventOffsetMask = 0x7fff;
constexpr uint32_t kEventWrapShift = 15;
constexpr uint32_t kEventFlagsShift = 16;
constexpr uint32_t kEventFlagsMask = 3;
constexpr uint32_t kEventEnable = 0;
constexpr uint32_t kEventDisable = 1;
constexpr uint32_t kEventDescriptor = 2;

/// Did the driver write these flags in the lap of `wrap`, and has the device not answered?
bool is_available(uint16_t flags, bool wrap) {
    const bool available = (flags & kDescriptorAvailable) != 0;
    const bool used = (flags & kDescriptorUsed) != 0;
    return available == wrap && used != wrap;
}

}  // namespace

std::byte* PackedVirtqueue::entry(uint16_t index) const {
    return areas_.descriptor + size_t{index} * kDescriptorBytes;
}

PackedVirtqueue::Position PackedVirtqueue::behind(Position position, uint16_t entry_count) const {
    const uint32_t next = uint32_t{position.index} + entry_count;
    if (next >= size_) {
        return {.index = static_cast<uint16_t>(next - size_), .wrap = !position.wrap};
    }
    return {.index = static_cast<uint16_t>(next), .wrap = position.wrap};
}

bool PackedVirtqueue::has_available() const {
    // Acquire pairs with the driver's barrier between writing the chain and the flags of its first
    // descriptor, which it writes last (VIRTIO 1.3, 2.8.21).
    return is_available(load<uint16_t>(entry(next_available_.index) + kFlags, __ATOMIC_ACQUIRE),
                        next_available_.wrap);
}

Result<bool, RingError> PackedVirtqueue::fetch(ChainBuilder& builder, const ChainSlots& slots) {
    if (!has_available()) {
        return false;
    }
    // A driver may not touch entries again before they are used. So chains in flight never hold
    // more entries than the ring has, and the walk below is bounded by what is left.
    const auto entries_free = static_cast<uint16_t>(size_ - entries_in_flight_);
    if (entries_free == 0) [[unlikely]] {
        return failure(RingError::kAvailableIndexJump);
    }
    const auto end = read_chain(entries_free, builder);
    if (!end) [[unlikely]] {
        return failure(end.error());
    }
    if (slots.is_in_flight(end->id)) [[unlikely]] {
        return failure(RingError::kHeadInFlight);
    }
    if (const auto finished = builder.finish(end->id, end->entry_count); !finished) [[unlikely]] {
        return failure(finished.error());
    }
    next_available_ = behind(next_available_, end->entry_count);
    entries_in_flight_ = static_cast<uint16_t>(entries_in_flight_ + end->entry_count);
    return true;
}

Result<PackedVirtqueue::ChainEnd, RingError> PackedVirtqueue::read_chain(
    uint16_t entries_max, ChainBuilder& builder) const {
    uint16_t index = next_available_.index;
    for (uint16_t count = 1; count <= entries_max; ++count) {
        const std::byte* const at = entry(index);
        // The one copy; everything is decided on it. Relaxed: ordered by the first one's flags.
        const Descriptor descriptor =
            ring_memory::packed_descriptor(load<uint64_t>(at + kAddress, __ATOMIC_RELAXED),
                                           load<uint64_t>(at + kLength, __ATOMIC_RELAXED));
        // Direct descriptors may come first, one table ends the chain. Only the last descriptor's
        // buffer id counts (VIRTIO 1.3, 2.8.6).
        if ((descriptor.flags & kDescriptorIndirect) != 0) {
            if (const auto added = builder.add_packed_table(descriptor); !added) {
                return failure(added.error());
            }
            return ChainEnd{.id = descriptor.link, .entry_count = count};
        }
        if (const auto added = builder.add(descriptor); !added) [[unlikely]] {
            return failure(added.error());
        }
        if ((descriptor.flags & kDescriptorNext) == 0) {
            return ChainEnd{.id = descriptor.link, .entry_count = count};
        }
        ++index;
        if (index == size_) {
            index = 0;
        }
    }
    return failure(RingError::kChainTooLong);
}

void PackedVirtqueue::push_used(uint16_t id, uint32_t written_bytes, uint16_t descriptor_count) {
    uint16_t flags =
        next_used_.wrap ? static_cast<uint16_t>(kDescriptorAvailable | kDescriptorUsed) : 0;
    if (written_bytes > 0) {
        flags |= kDescriptorWrite;  // VIRTIO 1.3, 2.8.5: without it the length means nothing
    }
    std::byte* const at = entry(next_used_.index);
    if (unseen_entries_ == 0) {
        first_unseen_ = next_used_.index;
        first_unseen_flags_ = flags;
        store<uint32_t>(at + kLength, written_bytes, __ATOMIC_RELAXED);
        store<uint16_t>(at + kId, id, __ATOMIC_RELAXED);
    } else {
        // The driver reads used descriptors in ring order, so it does not come here before it has
        // seen the flags of the batch's first one. Relaxed: their release store orders this too.
        store<uint64_t>(at + kLength,
                        written_bytes | uint64_t{id} << 32 | uint64_t{flags} << 48,
                        __ATOMIC_RELAXED);
    }
    next_used_ = behind(next_used_, descriptor_count);
    unseen_entries_ += descriptor_count;
    entries_in_flight_ = static_cast<uint16_t>(entries_in_flight_ - descriptor_count);
}

void PackedVirtqueue::make_visible() {
    // Release pairs with the driver's barrier behind its load of these flags (VIRTIO 1.3, 2.8.22):
    // the buffers and every other field of the batch come before.
    store<uint16_t>(entry(first_unseen_) + kFlags, first_unseen_flags_, __ATOMIC_RELEASE);
    undecided_entries_ += unseen_entries_;
    unseen_entries_ = 0;
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
