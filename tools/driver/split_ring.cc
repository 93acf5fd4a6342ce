// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/split_ring.h"

#include <atomic>
#include <cstring>

#include "vhost-user-backend/base/checked_math.h"

#include "tools/driver/shared_access.h"

namespace outrigger::driver {
namespace {

constexpr uint16_t kUsedFlagNoNotify = 1;
constexpr uint16_t kAvailableFlagNoInterrupt = 1;
constexpr size_t kAvailableFlags = 0;
constexpr size_t kIndex = 2;
constexpr size_t kEntries = 4;
constexpr size_t kAvailableEntryBytes = 2;
constexpr size_t kUsedEntryBytes = 8;
// Larger than the alignment that VIRTIO 1.3, 2.7 asks for: no two areas share a cache line.
constexpr uint64_t kAreaAlignment = 64;

size_t available_bytes(uint16_t size) {
    return kEntries + size * kAvailableEntryBytes + sizeof(uint16_t);
}

size_t used_bytes(uint16_t size) {
    return kEntries + size * kUsedEntryBytes + sizeof(uint16_t);
}

// VIRTIO 1.3, 2.7.10: has the index passed the event between `old_index` and `new_index`?
bool passed_event(uint16_t event, uint16_t new_index, uint16_t old_index) {
    return static_cast<uint16_t>(new_index - event - 1) <
           static_cast<uint16_t>(new_index - old_index);
}

void store_descriptor(std::byte* at, const SplitDescriptor& descriptor) {
    // Relaxed: the release store of the available index publishes it (partner: the device's acquire
    // load of that index).
    const uint64_t tail =
        descriptor.length | uint64_t{descriptor.flags} << 32 | uint64_t{descriptor.next} << 48;
    store_le<uint64_t>(at, descriptor.address, std::memory_order_relaxed);
    store_le<uint64_t>(at + sizeof(uint64_t), tail, std::memory_order_relaxed);
}

uint16_t write_flag(const Segment& segment) {
    return segment.device_writable ? kDescriptorWrite : uint16_t{0};
}

}  // namespace

Result<SplitRing> SplitRing::create(GuestMemory& memory,
                                    const RingOptions& options,
                                    std::optional<RegionId> region) {
    OUTRIGGER_ASSERT(is_power_of_two(options.size) && options.size <= kRingSizeMax);
    SplitRing ring;
    ring.size_ = options.size;
    ring.event_idx_ = options.event_idx;
    ring.in_order_ = options.in_order;
    ring.indirect_segments_max_ = options.indirect_segments_max;
    const auto take = [&](size_t bytes) { return memory.allocate(bytes, kAreaAlignment, region); };
    const size_t descriptor_bytes = options.size * kDescriptorBytes;
    ring.addresses_.descriptor_area = OUTRIGGER_TRY(take(descriptor_bytes));
    ring.addresses_.driver_area = OUTRIGGER_TRY(take(available_bytes(options.size)));
    ring.addresses_.device_area = OUTRIGGER_TRY(take(used_bytes(options.size)));
    ring.descriptors_ = memory.data(ring.addresses_.descriptor_area, descriptor_bytes);
    ring.available_ = memory.data(ring.addresses_.driver_area, available_bytes(options.size));
    ring.used_ = memory.data(ring.addresses_.device_area, used_bytes(options.size));
    if (options.indirect_segments_max > 0) {
        const size_t bytes = descriptor_bytes * options.indirect_segments_max;
        ring.tables_address_ = OUTRIGGER_TRY(take(bytes));
        ring.tables_ = memory.data(ring.tables_address_, bytes);
    }
    ring.chains_.resize(options.size);
    ring.links_.resize(options.size);
    ring.order_.resize(options.size);
    ring.reset();
    return ring;
}

void SplitRing::reset() {
    std::memset(descriptors_, 0, size_ * kDescriptorBytes);
    std::memset(available_, 0, available_bytes(size_));
    std::memset(used_, 0, used_bytes(size_));
    for (uint16_t i = 0; i < size_; ++i) {
        chains_[i] = {};
        links_[i] = static_cast<uint16_t>((i + 1) % size_);
    }
    order_.clear();
    free_head_ = 0;
    free_count_ = size_;
    in_flight_ = 0;
    available_index_ = published_index_ = kicked_index_ = used_index_ = used_seen_ = 0;
    fault_ = DeviceFault::kNone;
}

void SplitRing::start_at(uint16_t index) {
    OUTRIGGER_ASSERT(in_flight_ == 0);
    available_index_ = published_index_ = kicked_index_ = used_index_ = used_seen_ = index;
    store_le<uint16_t>(available_ + kIndex, index, std::memory_order_relaxed);
    store_le<uint16_t>(used_ + kIndex, index, std::memory_order_relaxed);
}

uint16_t SplitRing::take_descriptor() {
    const uint16_t descriptor = free_head_;
    free_head_ = links_[descriptor];
    --free_count_;
    return descriptor;
}

void SplitRing::fill_table(uint16_t descriptor, std::span<const Segment> segments) {
    OUTRIGGER_ASSERT(segments.size() <= indirect_segments_max_);
    for (size_t i = 0; i < segments.size(); ++i) {
        const bool last = i + 1 == segments.size();
        const auto next = last ? uint16_t{0} : static_cast<uint16_t>(i + 1);
        const auto flags =
            static_cast<uint16_t>(write_flag(segments[i]) | (last ? 0 : kDescriptorNext));
        write_indirect(descriptor,
                       static_cast<uint16_t>(i),
                       {.address = static_cast<uint64_t>(segments[i].address),
                        .length = segments[i].length,
                        .flags = flags,
                        .next = next});
    }
}

bool SplitRing::try_add(std::span<const Segment> segments, uint64_t token, ChainLayout layout) {
    OUTRIGGER_ASSERT(!segments.empty());
    size_t direct = segments.size();
    if (layout == ChainLayout::kIndirect) {
        direct = 0;
    } else if (layout == ChainLayout::kMixed) {
        direct = 1;
    }
    const bool has_table = direct < segments.size();
    const size_t needed = direct + (has_table ? 1 : 0);
    if (needed > free_count_) {
        return false;
    }
    const uint16_t head = free_head_;
    uint16_t tail = head;
    for (size_t i = 0; i < needed; ++i) {
        tail = take_descriptor();
        const bool last = i + 1 == needed;
        SplitDescriptor descriptor;
        if (i < direct) {
            descriptor = {.address = static_cast<uint64_t>(segments[i].address),
                          .length = segments[i].length,
                          .flags = write_flag(segments[i])};
        } else {
            const auto table = segments.subspan(direct);
            fill_table(tail, table);
            descriptor = {.address = static_cast<uint64_t>(indirect_table(tail)),
                          .length = static_cast<uint32_t>(table.size() * kDescriptorBytes),
                          .flags = kDescriptorIndirect};
        }
        if (!last) {
            descriptor.flags |= kDescriptorNext;
            descriptor.next = links_[tail];
        }
        write_descriptor(tail, descriptor);
    }
    chains_[head] = {.token = token,
                     .writable_bytes = writable_bytes(segments),
                     .tail = tail,
                     .descriptors = static_cast<uint16_t>(needed)};
    if (in_order_) {
        order_.append(head);
    }
    write_available_entry(next_slot(), head);
    ++available_index_;
    ++in_flight_;
    return true;
}

void SplitRing::publish() {
    if (published_index_ == available_index_) {
        return;
    }
    published_index_ = available_index_;
    write_available_index(published_index_);
}

void SplitRing::publish_head(uint16_t head) {
    write_available_entry(next_slot(), head);
    ++available_index_;
    publish();
}

bool SplitRing::kick_needed() {
    const uint16_t old_index = kicked_index_;
    kicked_index_ = published_index_;
    if (old_index == published_index_) {
        return false;
    }
    // Partner: the device's full fence between asking for kicks (flags or avail_event) and looking
    // at the available index again. One of the two sides sees the other's store.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (event_idx_) {
        return passed_event(read_available_event(), published_index_, old_index);
    }
    return (read_used_flags() & kUsedFlagNoNotify) == 0;
}

std::optional<SplitUsedElement> SplitRing::poll_used_element() {
    if (used_index_ == used_seen_) {
        // The shared cache line is only touched when everything known of is taken.
        used_seen_ = read_used_index();
        if (used_index_ == used_seen_) {
            return std::nullopt;
        }
    }
    const SplitUsedElement element = read_used_element(used_index_ & (size_ - 1));
    ++used_index_;
    return element;
}

void SplitRing::check_used(const SplitUsedElement& element) {
    // poll_used_element() has moved on by one.
    const uint32_t used = static_cast<uint16_t>(used_seen_ - used_index_) + 1U;
    if (used > in_flight_) {
        fault_ = DeviceFault::kUsedIndexJump;
    } else if (element.id >= size_) {
        fault_ = DeviceFault::kUsedIdOutOfRange;
    } else if (chains_[element.id].descriptors == 0) {
        fault_ = DeviceFault::kUsedIdNotInFlight;
    } else if (in_order_) {
        const auto batch = order_.count_through(static_cast<uint16_t>(element.id));
        if (!batch || *batch > used) {
            fault_ = DeviceFault::kUsedOutOfOrder;
        }
    }
}

std::optional<Completion> SplitRing::poll_used() {
    if (order_.batch() > 0) {
        return poll_used_in_order();
    }
    if (fault_ != DeviceFault::kNone) {
        return std::nullopt;
    }
    const auto element = poll_used_element();
    if (!element) {
        return std::nullopt;
    }
    check_used(*element);
    if (fault_ != DeviceFault::kNone) {
        return std::nullopt;
    }
    const auto head = static_cast<uint16_t>(element->id);
    if (!in_order_) {
        return finish_chain(head, element->length);
    }
    // 2.7.9: one element stands for all chains up to that one, and takes as many places.
    const uint32_t batch = order_.count_through(head).value_or(1);
    order_.begin_batch(batch);
    batch_length_ = element->length;
    used_index_ = static_cast<uint16_t>(used_index_ + batch - 1);
    return poll_used_in_order();
}

std::optional<Completion> SplitRing::poll_used_in_order() {
    const uint16_t head = order_.take_used();
    // 2.7.9: the buffers that were skipped were used completely.
    const bool skipped = order_.batch() > 0;
    return finish_chain(head, skipped ? chains_[head].writable_bytes : batch_length_);
}

Completion SplitRing::finish_chain(uint16_t head, uint32_t length) {
    Chain& chain = chains_[head];
    if (!in_order_) {
        // 2.7.5.1: with IN_ORDER descriptors are taken round and round, so they stay linked.
        links_[chain.tail] = free_head_;
        free_head_ = head;
    }
    free_count_ = static_cast<uint16_t>(free_count_ + chain.descriptors);
    chain.descriptors = 0;
    --in_flight_;
    return Completion{.token = chain.token, .length = length};
}

void SplitRing::suppress_calls() {
    if (event_idx_) {
        // 2.7.7.1: the flag must stay 0; an event just behind us is 65535 completions away.
        write_used_event(static_cast<uint16_t>(used_index_ - 1));
    } else {
        write_available_flags(kAvailableFlagNoInterrupt);
    }
}

bool SplitRing::enable_calls() {
    if (event_idx_) {
        write_used_event(used_index_);
    } else {
        write_available_flags(0);
    }
    // Partner: the device's full fence between publishing the used index and reading used_event or
    // the flags.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return order_.batch() > 0 || read_used_index() != used_index_;
}

void SplitRing::write_descriptor(uint16_t index, const SplitDescriptor& descriptor) {
    store_descriptor(descriptors_ + index * kDescriptorBytes, descriptor);
}

SplitDescriptor SplitRing::read_descriptor(uint16_t index) const {
    std::byte* const at = descriptors_ + index * kDescriptorBytes;
    const auto tail = load_le<uint64_t>(at + sizeof(uint64_t), std::memory_order_relaxed);
    return {.address = load_le<uint64_t>(at, std::memory_order_relaxed),
            .length = static_cast<uint32_t>(tail),
            .flags = static_cast<uint16_t>(tail >> 32),
            .next = static_cast<uint16_t>(tail >> 48)};
}

void SplitRing::write_available_entry(uint16_t slot, uint16_t head) {
    // Relaxed: published by the available index, as descriptors are.
    store_le<uint16_t>(
        available_ + kEntries + slot * kAvailableEntryBytes, head, std::memory_order_relaxed);
}

void SplitRing::write_available_index(uint16_t index) {
    // Partner: the device's acquire load of the available index.
    store_le<uint16_t>(available_ + kIndex, index, std::memory_order_release);
}

void SplitRing::write_available_flags(uint16_t flags) {
    // Relaxed: enable_calls() puts a full fence behind it.
    store_le<uint16_t>(available_ + kAvailableFlags, flags, std::memory_order_relaxed);
}

void SplitRing::write_used_event(uint16_t index) {
    // Relaxed: enable_calls() puts a full fence behind it.
    store_le<uint16_t>(
        available_ + kEntries + size_ * kAvailableEntryBytes, index, std::memory_order_relaxed);
}

uint16_t SplitRing::read_available_index() const {
    return load_le<uint16_t>(available_ + kIndex, std::memory_order_relaxed);
}

uint16_t SplitRing::read_used_event() const {
    return load_le<uint16_t>(available_ + kEntries + size_ * kAvailableEntryBytes,
                             std::memory_order_relaxed);
}

uint16_t SplitRing::read_used_index() const {
    // Partner: the device's release store of the used index, behind elements and buffers.
    return load_le<uint16_t>(used_ + kIndex, std::memory_order_acquire);
}

uint16_t SplitRing::read_used_flags() const {
    // Relaxed: kick_needed() puts a full fence before it.
    return load_le<uint16_t>(used_, std::memory_order_relaxed);
}

uint16_t SplitRing::read_available_event() const {
    // Relaxed: kick_needed() puts a full fence before it.
    return load_le<uint16_t>(used_ + kEntries + size_ * kUsedEntryBytes, std::memory_order_relaxed);
}

SplitUsedElement SplitRing::read_used_element(uint16_t slot) const {
    // Relaxed: ordered behind the acquire load of the used index.
    std::byte* const at = used_ + kEntries + slot * kUsedEntryBytes;
    return {.id = load_le<uint32_t>(at, std::memory_order_relaxed),
            .length = load_le<uint32_t>(at + sizeof(uint32_t), std::memory_order_relaxed)};
}

GuestAddr SplitRing::indirect_table(uint16_t descriptor) const {
    const uint64_t table_bytes = uint64_t{indirect_segments_max_} * kDescriptorBytes;
    return offset_by(tables_address_, descriptor * table_bytes);
}

void SplitRing::write_indirect(uint16_t descriptor, uint16_t entry, const SplitDescriptor& value) {
    const size_t index = size_t{descriptor} * indirect_segments_max_ + entry;
    store_descriptor(tables_ + index * kDescriptorBytes, value);
}

}  // namespace outrigger::driver
