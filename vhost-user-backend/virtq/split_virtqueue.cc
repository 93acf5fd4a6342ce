// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/split_virtqueue.h"

#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

// Offsets within the available and used rings. VIRTIO 1.3, 2.7.6 and 2.7.8.
constexpr size_t kFlags = 0;
constexpr size_t kIndex = 2;
constexpr size_t kEntries = 4;
constexpr size_t kAvailableEntryBytes = 2;
constexpr size_t kUsedEntryBytes = 8;

constexpr uint16_t kAvailableNoInterrupt = 1;
constexpr uint16_t kUsedNoNotify = 1;

}  // namespace

void SplitVirtqueue::start(uint16_t next_available) {
    next_available_ = next_available;
    seen_available_ = next_available;
    // Only the device writes this field, and the device that ran the ring before is gone.
    next_used_ = load<uint16_t>(areas_.device + kIndex, __ATOMIC_RELAXED);
    visible_used_ = next_used_;
    decided_used_ = next_used_;
}

bool SplitVirtqueue::has_available() const {
    // Acquire pairs with the driver's barrier between writing entries and the available index
    // (VIRTIO 1.3, 2.7.13.3).
    return seen_available_ != next_available_ ||
           load<uint16_t>(areas_.driver + kIndex, __ATOMIC_ACQUIRE) != next_available_;
}

Result<bool, RingError> SplitVirtqueue::fetch(ChainBuilder& builder, const ChainSlots& slots) {
    if (seen_available_ == next_available_) {
        // Acquire: as in has_available().
        const auto available = load<uint16_t>(areas_.driver + kIndex, __ATOMIC_ACQUIRE);
        if (available == next_available_) {
            return false;
        }
        if (static_cast<uint16_t>(available - next_available_) > size_) [[unlikely]] {
            return failure(RingError::kAvailableIndexJump);
        }
        seen_available_ = available;
    }
    const size_t position = next_available_ & mask();
    // Relaxed: the acquire load of the index came first.
    const auto head = load<uint16_t>(areas_.driver + kEntries + position * kAvailableEntryBytes,
                                     __ATOMIC_RELAXED);
    if (head >= size_) [[unlikely]] {
        return failure(RingError::kHeadOutOfRange);
    }
    if (slots.is_in_flight(head)) [[unlikely]] {
        return failure(RingError::kHeadInFlight);
    }
    if (const auto read = read_chain(head, builder); !read) [[unlikely]] {
        return failure(read.error());
    }
    if (const auto finished = builder.finish(head, 1); !finished) [[unlikely]] {
        return failure(finished.error());
    }
    ++next_available_;
    return true;
}

Result<void, RingError> SplitVirtqueue::read_chain(uint16_t head, ChainBuilder& builder) const {
    uint16_t index = head;
    for (uint32_t seen = 0; seen < size_; ++seen) {
        const std::byte* const at = areas_.descriptor + size_t{index} * kDescriptorBytes;
        // The one copy; everything is decided on it. Relaxed: ordered by the available index.
        const Descriptor descriptor = ring_memory::split_descriptor(
            load<uint64_t>(at, __ATOMIC_RELAXED), load<uint64_t>(at + 8, __ATOMIC_RELAXED));
        // VIRTIO 1.3, 2.7.5.3.2: direct descriptors may come first, one table ends the chain.
        if ((descriptor.flags & kDescriptorIndirect) != 0) {
            return builder.add_split_table(descriptor);
        }
        if (const auto added = builder.add(descriptor); !added) [[unlikely]] {
            return added;
        }
        if ((descriptor.flags & kDescriptorNext) == 0) {
            return {};
        }
        if (descriptor.link >= size_) [[unlikely]] {
            return failure(RingError::kNextOutOfRange);
        }
        index = descriptor.link;
    }
    return failure(RingError::kChainTooLong);
}

void SplitVirtqueue::push_used(uint16_t head,
                               uint32_t written_bytes,
                               [[maybe_unused]] uint16_t descriptor_count) {
    std::byte* const at = areas_.device + kEntries +
                          size_t{static_cast<uint16_t>(next_used_ & mask())} * kUsedEntryBytes;
    // Relaxed: the release store in make_visible() orders them for the driver.
    store<uint32_t>(at, head, __ATOMIC_RELAXED);
    store<uint32_t>(at + 4, written_bytes, __ATOMIC_RELAXED);
    ++next_used_;
}

void SplitVirtqueue::make_visible() {
    // Release pairs with the driver's barrier behind its load of this index (VIRTIO 1.3, 2.7.14):
    // what the device wrote to the buffers and the used entries comes before.
    store<uint16_t>(areas_.device + kIndex, next_used_, __ATOMIC_RELEASE);
    visible_used_ = next_used_;
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
