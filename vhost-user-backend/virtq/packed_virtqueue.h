// SPDX-License-Identifier: Apache-2.0
/// The packed ring format, device side: one ring of descriptors that both sides rewrite, and two
/// event suppression structures. VIRTIO 1.3, 2.8. What both formats share is in Virtqueue.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/prefetch.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/virtq/chain_builder.h"
#include "vhost-user-backend/virtq/chain_slots.h"
#include "vhost-user-backend/virtq/outcome_journal.h"
#include "vhost-user-backend/virtq/packed_inflight_log.h"
#include "vhost-user-backend/virtq/ring_areas.h"
#include "vhost-user-backend/virtq/ring_error.h"
#include "vhost-user-backend/virtq/ring_memory.h"
#include "vhost-user-backend/virtq/ring_position.h"

namespace outrigger {

/// Calls other than set_areas(), start() and the positions need areas. Thread-bound: queue worker.
class PackedVirtqueue final {
  public:
    using Position = RingPosition;

    /// Bytes and alignment of the three areas. VIRTIO 1.3, 2.8.10.1.
    [[nodiscard]] static RingAreaRules area_rules(uint16_t size) {
        return {.descriptor = {.bytes = size_t{16} * size, .alignment = 16},
                .driver = {.bytes = 4, .alignment = 4},
                .device = {.bytes = 4, .alignment = 4}};
    }

    PackedVirtqueue(uint16_t size, bool event_idx) : size_(size), event_idx_(event_idx) {}

    void set_areas(const RingAreas& areas) { areas_ = areas; }

    /// Goes to where the ring stands. Both indices are below the size.
    void start(Position next_available, Position next_used) {
        next_available_ = next_available;
        next_used_ = next_used;
    }

    /// Once, when the ring has its first areas. `log`: what the one before left, and where this one
    /// notes what it has; empty: nothing is noted. True: the log says where the ring stands, and
    /// has_available() tells of its chains first.
    [[nodiscard]] Result<bool, InflightLogError> resume(std::span<std::byte> log,
                                                        bool base_is_known);

    /// The chains that has_available() tells of first, as the outcome journal knows them.
    [[nodiscard]] std::vector<OutcomeJournal::Key> replayed_keys() const;

    [[nodiscard]] Position next_available() const { return next_available_; }

    [[nodiscard]] Position next_used() const { return next_used_; }

    [[nodiscard]] bool has_available() const;

    /// Descriptors beside those of the log. Looks at each.
    [[nodiscard]] uint16_t available_count() const;

    /// Chains of the log that were not fetched yet.
    [[nodiscard]] size_t resumed_count() const { return again_.size(); }

    /// The counter of the first of them.
    [[nodiscard]] std::optional<uint64_t> next_resumed() const {
        return again_.empty() ? std::nullopt : std::optional(again_.back().counter);
    }

    /// Reads the next chain into `builder`: true when there was one, false when the ring is empty.
    /// The position moves only on true.
    [[nodiscard]] Result<bool, RingError> fetch(ChainBuilder& builder, const ChainSlots& slots);

    /// Has the processor fetch the next `count` descriptors, as far as they lie before the ring's
    /// end. Reads nothing of the ring.
    void prefetch(uint16_t count) const;

    /// Notes a used chain where the driver does not look yet.
    void push_used(const ChainSlot& slot, uint32_t written_bytes);

    /// Makes everything pushed visible. Something was pushed.
    void make_visible();

    /// Does the driver want a call for what became visible since this was asked last?
    [[nodiscard]] bool call_wanted();

    void suppress_kicks();
    /// True: there is work already.
    [[nodiscard]] bool enable_kicks();

    // For the dirty log: what the device writes.

    /// What push_used() wrote since the last make_visible(), in the descriptor area, with the
    /// entries in between; the second part when that wraps.
    [[nodiscard]] std::array<AreaRange, 2> unseen_used() const;

    /// What the next make_visible() writes, in the descriptor area.
    [[nodiscard]] AreaRange visible_mark() const {
        return {.offset = size_t{first_unseen_} * kDescriptorBytes + kFlags, .bytes = 2};
    }

    /// What suppress_kicks() and enable_kicks() write, in the device area.
    [[nodiscard]] static std::array<AreaRange, 2> suppression() {
        return {{{.offset = 0, .bytes = 4}, {}}};
    }

  private:
    // Offsets within a descriptor. VIRTIO 1.3, 2.8.13.
    static constexpr size_t kAddress = 0;
    static constexpr size_t kLength = 8;
    static constexpr size_t kId = 12;
    static constexpr size_t kFlags = 14;

    /// read_chain() tells it in place: as a part of a Result it would be put together on the stack,
    /// field by field, and read back as one word, for which a processor waits.
    struct ChainEnd {
        uint16_t id = 0;
        uint16_t entry_count = 0;
        uint16_t entry = 0;  // of the log, where the chain comes from there
    };

    [[nodiscard]] uint16_t load_head_flags() const;
    [[nodiscard]] Result<void, RingError> read_chain(uint16_t head_flags,
                                                     uint16_t entries_max,
                                                     ChainBuilder& builder,
                                                     ChainEnd& end);
    void hide_unpublished(uint16_t entries_held);
    [[nodiscard]] Result<bool, RingError> fetch_again(ChainBuilder& builder,
                                                      const ChainSlots& slots);
    [[nodiscard]] Result<ChainEnd, RingError> read_noted(const PackedInflightLog::Chain& chain,
                                                         ChainBuilder& builder) const;
    /// Takes one descriptor of a chain. True: it was the last.
    [[nodiscard]] static Result<bool, RingError> add(const Descriptor& descriptor,
                                                     ChainBuilder& builder);
    /// Did the driver write these flags in the lap of `wrap`, and has the device not answered?
    [[nodiscard]] static bool is_available(uint16_t flags, bool wrap);
    [[nodiscard]] std::byte* entry(uint16_t index) const;

    RingAreas areas_;
    uint16_t size_;
    bool event_idx_;
    bool kicks_suppressed_ = false;
    uint16_t entries_held_ = 0;        // entries of chains that are not visibly used yet
    Position next_available_;          // of the next chain to fetch
    Position next_used_;               // of the next used descriptor, visible or not
    uint16_t first_unseen_ = 0;        // where the batch that is not visible yet begins
    uint16_t first_unseen_flags_ = 0;  // what its flags will be
    uint16_t unseen_entries_ = 0;      // how many entries it covers; 0: there is no batch
    uint32_t undecided_entries_ = 0;   // visible, but not yet decided whether to call
    std::optional<PackedInflightLog> log_;
    std::vector<PackedInflightLog::Chain> again_;  // to be fetched before all others, oldest last
};

// --- What runs for each request, in the header so that it is inlined --------------------------

inline bool PackedVirtqueue::is_available(uint16_t flags, bool wrap) {
    const bool available = (flags & kDescriptorAvailable) != 0;
    const bool used = (flags & kDescriptorUsed) != 0;
    return available == wrap && used != wrap;
}

inline std::byte* PackedVirtqueue::entry(uint16_t index) const {
    return areas_.descriptor + size_t{index} * kDescriptorBytes;
}

inline uint16_t PackedVirtqueue::load_head_flags() const {
    // Acquire pairs with the driver's barrier between writing the chain and the flags of its first
    // descriptor, which it writes last (VIRTIO 1.3, 2.8.21).
    return ring_memory::load<uint16_t>(entry(next_available_.index) + kFlags, __ATOMIC_ACQUIRE);
}

inline bool PackedVirtqueue::has_available() const {
    return is_available(load_head_flags(), next_available_.wrap) || !again_.empty();
}

inline Result<bool, RingError> PackedVirtqueue::fetch(ChainBuilder& builder,
                                                      const ChainSlots& slots) {
    if (!again_.empty()) [[unlikely]] {
        return fetch_again(builder, slots);
    }
    const uint16_t head_flags = load_head_flags();
    if (!is_available(head_flags, next_available_.wrap)) {
        return false;
    }
    // A driver may not touch entries again before it sees them used. So chains never hold more
    // entries than the ring has, and the walk below is bounded by what is left.
    const auto entries_free = static_cast<uint16_t>(size_ - entries_held_);
    if (entries_free == 0) [[unlikely]] {
        return failure(RingError::kAvailableIndexJump);
    }
    ChainEnd end;
    if (const auto read = read_chain(head_flags, entries_free, builder, end); !read) [[unlikely]] {
        return failure(read.error());
    }
    if (slots.is_in_flight(end.id)) [[unlikely]] {
        return failure(RingError::kHeadInFlight);
    }
    if (const auto finished = builder.finish(end.id, end.entry_count); !finished) [[unlikely]] {
        return failure(finished.error());
    }
    if (log_) {
        const auto entries = log_->note_fetched(end.entry_count);
        builder.slot().inflight_first = entries.first;
        builder.slot().inflight_last = entries.last;
        builder.slot().inflight_counter = log_->last_counter();
    }
    next_available_ = next_available_.behind(end.entry_count, size_);
    entries_held_ = static_cast<uint16_t>(entries_held_ + end.entry_count);
    return true;
}

inline void PackedVirtqueue::prefetch(uint16_t count) const {
    constexpr size_t kTogether = kCacheLineBytes / kDescriptorBytes;
    const size_t first = next_available_.index;
    const size_t end = std::min<size_t>(first + count, size_);
    // Rings begin with a line. To write: chains are used where they were made available, or nearby.
    for (size_t at = first - first % kTogether; at < end; at += kTogether) {
        prefetch_to_write(areas_.descriptor + at * kDescriptorBytes);
    }
}

inline Result<void, RingError> PackedVirtqueue::read_chain(uint16_t head_flags,
                                                           uint16_t entries_max,
                                                           ChainBuilder& builder,
                                                           ChainEnd& end) {
    uint16_t index = next_available_.index;
    if (log_) {
        log_->restart_chain();
    }
    for (uint16_t count = 1; count <= entries_max; ++count) {
        const std::byte* const at = entry(index);
        // The one copy; everything is decided on it. Relaxed: ordered by the first one's flags,
        // which are not read again: what made the chain available also says what it is.
        const Descriptor descriptor =
            count == 1
                ? Descriptor{.address =
                                 ring_memory::load<uint64_t>(at + kAddress, __ATOMIC_RELAXED),
                             .length = ring_memory::load<uint32_t>(at + kLength, __ATOMIC_RELAXED),
                             .flags = head_flags,
                             .link = ring_memory::load<uint16_t>(at + kId, __ATOMIC_RELAXED)}
                : ring_memory::packed_descriptor(
                      ring_memory::load<uint64_t>(at + kAddress, __ATOMIC_RELAXED),
                      ring_memory::load<uint64_t>(at + kLength, __ATOMIC_RELAXED));
        const auto is_last = add(descriptor, builder);
        if (!is_last) [[unlikely]] {
            return failure(is_last.error());
        }
        if (log_) {
            log_->note_descriptor(descriptor);
        }
        if (*is_last) {
            // Only the last descriptor's buffer id counts (VIRTIO 1.3, 2.8.6).
            end = {.id = descriptor.link, .entry_count = count};
            return {};
        }
        ++index;
        if (index == size_) {
            index = 0;
        }
    }
    return failure(RingError::kChainTooLong);
}

inline Result<bool, RingError> PackedVirtqueue::add(const Descriptor& descriptor,
                                                    ChainBuilder& builder) {
    // Direct descriptors may come first, one table ends the chain.
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
        if (const auto added = builder.add_packed_table(descriptor); !added) [[unlikely]] {
            return failure(added.error());
        }
        return true;
    }
    if (const auto added = builder.add(descriptor); !added) [[unlikely]] {
        return failure(added.error());
    }
    return (descriptor.flags & kDescriptorNext) == 0;
}

inline void PackedVirtqueue::push_used(const ChainSlot& slot, uint32_t written_bytes) {
    uint16_t flags =
        next_used_.wrap ? static_cast<uint16_t>(kDescriptorAvailable | kDescriptorUsed) : 0;
    if (written_bytes > 0) {
        flags |= kDescriptorWrite;  // VIRTIO 1.3, 2.8.5: without it the length means nothing
    }
    std::byte* const at = entry(next_used_.index);
    if (unseen_entries_ == 0) {
        first_unseen_ = next_used_.index;
        first_unseen_flags_ = flags;
        ring_memory::store<uint32_t>(at + kLength, written_bytes, __ATOMIC_RELAXED);
        ring_memory::store<uint16_t>(at + kId, slot.head, __ATOMIC_RELAXED);
    } else {
        // The driver reads used descriptors in ring order, so it does not come here before it has
        // seen the flags of the batch's first one. Relaxed: their release store orders this too.
        ring_memory::store<uint64_t>(
            at + kLength,
            written_bytes | uint64_t{slot.head} << 32 | uint64_t{flags} << 48,
            __ATOMIC_RELAXED);
    }
    next_used_ = next_used_.behind(slot.descriptor_count, size_);
    unseen_entries_ = static_cast<uint16_t>(unseen_entries_ + slot.descriptor_count);
    if (log_) {
        log_->note_used({.first = slot.inflight_first, .last = slot.inflight_last});
    }
}

}  // namespace outrigger
