// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/packed_ring.h"

#include <atomic>
#include <cstring>

#include "tools/driver/shared_access.h"

namespace outrigger::driver {
namespace {

constexpr size_t kFlagsOffset = 14;
constexpr size_t kEventBytes = 4;
constexpr uint16_t kEventWrap = 1U << 15;
// Larger than the alignment that VIRTIO 1.3, 2.8 asks for: no two areas share a cache line.
constexpr uint64_t kAreaAlignment = 64;

uint64_t tail_of(const PackedDescriptor& descriptor) {
    return descriptor.length | uint64_t{descriptor.id} << 32 | uint64_t{descriptor.flags} << 48;
}

uint16_t write_flag(const Segment& segment) {
    return segment.device_writable ? kDescriptorWrite : uint16_t{0};
}

PackedEventSuppression load_event(std::byte* at) {
    // One load, so that offset and flags belong together. Relaxed: callers have a full fence.
    const auto raw = load_le<uint32_t>(at, std::memory_order_relaxed);
    return {.offset_and_wrap = static_cast<uint16_t>(raw),
            .flags = static_cast<uint16_t>(raw >> 16)};
}

}  // namespace

Result<PackedRing> PackedRing::create(GuestMemory& memory,
                                      const RingOptions& options,
                                      std::optional<RegionId> region) {
    OUTRIGGER_ASSERT(options.size > 0 && options.size <= kRingSizeMax);
    PackedRing ring;
    ring.size_ = options.size;
    ring.event_idx_ = options.event_idx;
    ring.in_order_ = options.in_order;
    ring.indirect_segments_max_ = options.indirect_segments_max;
    const auto take = [&](size_t bytes) { return memory.allocate(bytes, kAreaAlignment, region); };
    const size_t descriptor_bytes = options.size * kDescriptorBytes;
    ring.addresses_.descriptor_area = OUTRIGGER_TRY(take(descriptor_bytes));
    ring.addresses_.driver_area = OUTRIGGER_TRY(take(kEventBytes));
    ring.addresses_.device_area = OUTRIGGER_TRY(take(kEventBytes));
    ring.descriptors_ = memory.data(ring.addresses_.descriptor_area, descriptor_bytes);
    ring.driver_event_ = memory.data(ring.addresses_.driver_area, kEventBytes);
    ring.device_event_ = memory.data(ring.addresses_.device_area, kEventBytes);
    if (options.indirect_segments_max > 0) {
        const size_t bytes = descriptor_bytes * options.indirect_segments_max;
        ring.tables_address_ = OUTRIGGER_TRY(take(bytes));
        ring.tables_ = memory.data(ring.tables_address_, bytes);
    }
    ring.chains_.resize(options.size);
    ring.order_.resize(options.size);
    ring.reset();
    return ring;
}

void PackedRing::reset() {
    std::memset(descriptors_, 0, size_ * kDescriptorBytes);
    std::memset(driver_event_, 0, kEventBytes);
    std::memset(device_event_, 0, kEventBytes);
    for (uint16_t id = 0; id < size_; ++id) {
        chains_[id] = {.next_free = static_cast<uint16_t>(id + 1)};
    }
    order_.clear();
    free_id_ = 0;
    free_count_ = size_;
    in_flight_ = 0;
    available_slot_ = used_slot_ = 0;
    available_wrap_ = used_wrap_ = true;
    pending_ = false;
    unpublished_ = 0;
    unkicked_ = 0;
    fault_ = DeviceFault::kNone;
}

uint32_t PackedRing::base() const {
    const uint32_t available = available_slot_ | (available_wrap_ ? 0x8000U : 0U);
    const uint32_t used = used_slot_ | (used_wrap_ ? 0x8000U : 0U);
    return available | used << 16;
}

uint32_t PackedRing::start_base() const {
    const uint32_t used = used_slot_ | (used_wrap_ ? 0x8000U : 0U);
    return used | used << 16;
}

void PackedRing::skip_slots(uint16_t count) {
    uint32_t slot = uint32_t{available_slot_} + count;
    if (slot >= size_) {
        slot -= size_;
        available_wrap_ = !available_wrap_;
    }
    available_slot_ = static_cast<uint16_t>(slot);
}

void PackedRing::advance_used(uint16_t slots) {
    uint32_t slot = uint32_t{used_slot_} + slots;
    if (slot >= size_) {
        slot -= size_;
        used_wrap_ = !used_wrap_;
    }
    used_slot_ = static_cast<uint16_t>(slot);
}

// Fills the next slot. The first one of a batch keeps its old flags until publish(): the device
// cannot pass it, so what lies behind it needs no release store of its own.
void PackedRing::put(const PackedDescriptor& descriptor) {
    PackedDescriptor marked = descriptor;
    marked.flags |= available_flags();
    std::byte* const at = descriptors_ + available_slot_ * kDescriptorBytes;
    if (!pending_) {
        pending_ = true;
        pending_slot_ = available_slot_;
        pending_flags_ = marked.flags;
        store_le<uint64_t>(at, marked.address, std::memory_order_relaxed);
        store_le<uint32_t>(at + 8, marked.length, std::memory_order_relaxed);
        store_le<uint16_t>(at + 12, marked.id, std::memory_order_relaxed);
    } else {
        store_le<uint64_t>(at, marked.address, std::memory_order_relaxed);
        store_le<uint64_t>(at + 8, tail_of(marked), std::memory_order_relaxed);
    }
    skip_slots(1);
    ++unpublished_;
}

void PackedRing::fill_table(uint16_t id, std::span<const Segment> segments) {
    OUTRIGGER_ASSERT(segments.size() <= indirect_segments_max_);
    for (size_t i = 0; i < segments.size(); ++i) {
        // 2.8.19: no flag but WRITE means anything in a table, and entries follow one another.
        write_indirect(id,
                       static_cast<uint16_t>(i),
                       {.address = static_cast<uint64_t>(segments[i].address),
                        .length = segments[i].length,
                        .id = 0,
                        .flags = write_flag(segments[i])});
    }
}

bool PackedRing::try_add(std::span<const Segment> segments, uint64_t token, ChainLayout layout) {
    OUTRIGGER_ASSERT(!segments.empty() && layout != ChainLayout::kMixed);
    const bool indirect = layout == ChainLayout::kIndirect;
    const size_t needed = indirect ? 1 : segments.size();
    if (needed > free_count_) {
        return false;
    }
    const uint16_t id = free_id_;
    free_id_ = chains_[id].next_free;
    if (indirect) {
        fill_table(id, segments);
        put({.address = static_cast<uint64_t>(indirect_table(id)),
             .length = static_cast<uint32_t>(segments.size() * kDescriptorBytes),
             .id = id,
             .flags = kDescriptorIndirect});
    } else {
        for (size_t i = 0; i < needed; ++i) {
            const auto next = i + 1 < needed ? kDescriptorNext : uint16_t{0};
            put({.address = static_cast<uint64_t>(segments[i].address),
                 .length = segments[i].length,
                 .id = id,
                 .flags = static_cast<uint16_t>(write_flag(segments[i]) | next)});
        }
    }
    chains_[id].token = token;
    chains_[id].writable_bytes = writable_bytes(segments);
    chains_[id].slots = static_cast<uint16_t>(needed);
    free_count_ = static_cast<uint16_t>(free_count_ - needed);
    ++in_flight_;
    if (in_order_) {
        order_.append(id);
    }
    return true;
}

void PackedRing::publish() {
    if (!pending_) {
        return;
    }
    pending_ = false;
    unkicked_ += unpublished_;
    unpublished_ = 0;
    write_flags(pending_slot_, pending_flags_);
}

bool PackedRing::kick_needed() {
    const auto published = static_cast<uint16_t>(unkicked_);
    unkicked_ = 0;
    if (published == 0) {
        return false;
    }
    // Partner: the device's full fence between writing its event suppression and looking at the
    // next descriptor's flags again.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const PackedEventSuppression wish = read_device_event();
    if (wish.flags == static_cast<uint16_t>(PackedEvents::kDisable)) {
        return false;
    }
    if (wish.flags != static_cast<uint16_t>(PackedEvents::kDescriptor) || !event_idx_) {
        return true;
    }
    // 2.8.10.1: positions count slots since this lap began; an event of the lap before lies one
    // ring size back. What was added but not published does not count yet.
    uint16_t position = available_slot_;
    bool wrap = available_wrap_;
    if (unpublished_ > 0) {
        wrap = position >= unpublished_ ? wrap : !wrap;
        position = static_cast<uint16_t>(
            position >= unpublished_ ? position - unpublished_ : position + size_ - unpublished_);
    }
    auto event = static_cast<uint16_t>(wish.offset_and_wrap & ~kEventWrap);
    if (((wish.offset_and_wrap & kEventWrap) != 0) != wrap) {
        event = static_cast<uint16_t>(event - size_);
    }
    return static_cast<uint16_t>(position - event - 1) < published;
}

bool PackedRing::next_is_used() const {
    // Partner: the device's release store of the used descriptor's flags.
    const auto flags = load_le<uint16_t>(
        descriptors_ + used_slot_ * kDescriptorBytes + kFlagsOffset, std::memory_order_acquire);
    const bool available = (flags & kPackedAvailable) != 0;
    const bool used = (flags & kPackedUsed) != 0;
    return available == used && used == used_wrap_;
}

std::optional<PackedDescriptor> PackedRing::poll_used_descriptor(uint16_t count) {
    if (!next_is_used()) {
        return std::nullopt;
    }
    const PackedDescriptor descriptor = read_descriptor(used_slot_);
    advance_used(count);
    return descriptor;
}

std::optional<Completion> PackedRing::poll_used() {
    if (order_.batch() == 0) {
        if (fault_ != DeviceFault::kNone || !next_is_used()) {
            return std::nullopt;
        }
        const PackedDescriptor descriptor = read_descriptor(used_slot_);
        if (descriptor.id >= size_) {
            fault_ = DeviceFault::kUsedIdOutOfRange;
            return std::nullopt;
        }
        if (chains_[descriptor.id].slots == 0) {
            fault_ = DeviceFault::kUsedIdNotInFlight;
            return std::nullopt;
        }
        // 2.8.13: the length means nothing unless the device set WRITE.
        const bool written = (descriptor.flags & kDescriptorWrite) != 0;
        const uint32_t length = written ? descriptor.length : 0;
        if (!in_order_) {
            return finish_chain(descriptor.id, length);
        }
        // 2.8.9: one used descriptor stands for all chains up to that one, and takes their slots.
        order_.begin_batch(order_.count_through(descriptor.id).value_or(1));
        batch_length_ = length;
    }
    const uint16_t id = order_.take_used();
    // The buffers that were skipped were used completely.
    const bool skipped = order_.batch() > 0;
    return finish_chain(id, skipped ? chains_[id].writable_bytes : batch_length_);
}

Completion PackedRing::finish_chain(uint16_t id, uint32_t length) {
    Chain& chain = chains_[id];
    advance_used(chain.slots);
    free_count_ = static_cast<uint16_t>(free_count_ + chain.slots);
    chain.slots = 0;
    chain.next_free = free_id_;
    free_id_ = id;
    --in_flight_;
    return Completion{.token = chain.token, .length = length};
}

void PackedRing::suppress_calls() {
    write_driver_event(
        {.offset_and_wrap = 0, .flags = static_cast<uint16_t>(PackedEvents::kDisable)});
}

bool PackedRing::enable_calls() {
    if (event_idx_) {
        write_driver_event(
            {.offset_and_wrap = static_cast<uint16_t>(used_slot_ | (used_wrap_ ? kEventWrap : 0)),
             .flags = static_cast<uint16_t>(PackedEvents::kDescriptor)});
    } else {
        write_driver_event(
            {.offset_and_wrap = 0, .flags = static_cast<uint16_t>(PackedEvents::kEnable)});
    }
    // Partner: the device's full fence between writing used flags and reading the driver's event
    // suppression.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return order_.batch() > 0 || next_is_used();
}

void PackedRing::write_descriptor(uint16_t slot, const PackedDescriptor& descriptor) {
    std::byte* const at = descriptors_ + slot * kDescriptorBytes;
    store_le<uint64_t>(at, descriptor.address, std::memory_order_relaxed);
    store_le<uint32_t>(at + 8, descriptor.length, std::memory_order_relaxed);
    store_le<uint16_t>(at + 12, descriptor.id, std::memory_order_relaxed);
    write_flags(slot, descriptor.flags);
}

PackedDescriptor PackedRing::read_descriptor(uint16_t slot) const {
    std::byte* const at = descriptors_ + slot * kDescriptorBytes;
    // Relaxed: callers who need what the device wrote have acquire-loaded the flags.
    return {.address = load_le<uint64_t>(at, std::memory_order_relaxed),
            .length = load_le<uint32_t>(at + 8, std::memory_order_relaxed),
            .id = load_le<uint16_t>(at + 12, std::memory_order_relaxed),
            .flags = load_le<uint16_t>(at + kFlagsOffset, std::memory_order_relaxed)};
}

void PackedRing::write_flags(uint16_t slot, uint16_t flags) {
    // Partner: the device's acquire load of a descriptor's flags.
    store_le<uint16_t>(
        descriptors_ + slot * kDescriptorBytes + kFlagsOffset, flags, std::memory_order_release);
}

void PackedRing::write_driver_event(const PackedEventSuppression& event) {
    // One store, so that offset and flags arrive together. Relaxed: enable_calls() has a fence.
    store_le<uint32_t>(driver_event_,
                       event.offset_and_wrap | uint32_t{event.flags} << 16,
                       std::memory_order_relaxed);
}

PackedEventSuppression PackedRing::read_driver_event() const {
    return load_event(driver_event_);
}

PackedEventSuppression PackedRing::read_device_event() const {
    return load_event(device_event_);
}

GuestAddr PackedRing::indirect_table(uint16_t id) const {
    const uint64_t table_bytes = uint64_t{indirect_segments_max_} * kDescriptorBytes;
    return offset_by(tables_address_, id * table_bytes);
}

void PackedRing::write_indirect(uint16_t id, uint16_t entry, const PackedDescriptor& value) {
    std::byte* const at =
        tables_ + (size_t{id} * indirect_segments_max_ + entry) * kDescriptorBytes;
    // Relaxed: published with the chain's head.
    store_le<uint64_t>(at, value.address, std::memory_order_relaxed);
    store_le<uint64_t>(at + 8, tail_of(value), std::memory_order_relaxed);
}

}  // namespace outrigger::driver
