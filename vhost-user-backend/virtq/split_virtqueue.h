// SPDX-License-Identifier: Apache-2.0
/// The split ring format, device side: descriptor table, available ring, used ring.
/// VIRTIO 1.3, 2.7. What both formats share is in Virtqueue.
#pragma once

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
#include "vhost-user-backend/virtq/ring_areas.h"
#include "vhost-user-backend/virtq/ring_error.h"
#include "vhost-user-backend/virtq/ring_memory.h"
#include "vhost-user-backend/virtq/split_inflight_log.h"

namespace outrigger {

/// Calls other than set_areas() need areas. Thread-bound: queue worker.
class SplitVirtqueue final {
  public:
    /// Bytes and alignment of the three areas. VIRTIO 1.3, 2.7.
    [[nodiscard]] static RingAreaRules area_rules(uint16_t size) {
        return {.descriptor = {.bytes = size_t{16} * size, .alignment = 16},
                .driver = {.bytes = 6 + size_t{2} * size, .alignment = 2},
                .device = {.bytes = 6 + size_t{8} * size, .alignment = 4}};
    }

    /// `size` is a power of two.
    SplitVirtqueue(uint16_t size, bool event_idx) : size_(size), event_idx_(event_idx) {}

    void set_areas(const RingAreas& areas) { areas_ = areas; }

    /// Goes to the available index that the front end gave. Needs no areas.
    void start(uint16_t next_available) {
        next_available_ = next_available;
        seen_available_ = next_available;
    }

    /// Goes on behind what the ring says was used. Once, when it has its first areas. `log`: what
    /// the one before left, and where this one notes what it has; empty: nothing is noted. True:
    /// the log says where the ring stands, and has_available() tells of its chains first.
    [[nodiscard]] Result<bool, InflightLogError> resume(std::span<std::byte> log,
                                                        bool base_is_known);

    /// The chains that has_available() tells of first, as the outcome journal knows them.
    [[nodiscard]] std::vector<OutcomeJournal::Key> replayed_keys() const;

    [[nodiscard]] uint16_t next_available() const { return next_available_; }

    [[nodiscard]] bool has_available() const;

    /// Heads beside those of the log, at most the ring's size.
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

    /// Has the processor fetch the `count` descriptors behind the last head: drivers take them one
    /// after the other where they can. Reads nothing of the ring.
    void prefetch(uint16_t count) const;

    /// Notes a used chain where the driver does not look yet.
    void push_used(const ChainSlot& slot, uint32_t written_bytes);

    /// Makes everything pushed visible.
    void make_visible();

    /// Does the driver want a call for what became visible since this was asked last?
    [[nodiscard]] bool call_wanted();

    void suppress_kicks();
    /// True: there is work already.
    [[nodiscard]] bool enable_kicks();

    // For the dirty log: what the device writes. All of it lies in the device area.

    /// What push_used() wrote since the last make_visible(); the second part when that wraps.
    [[nodiscard]] std::array<AreaRange, 2> unseen_used() const;

    /// What the next make_visible() writes.
    [[nodiscard]] static AreaRange visible_mark() { return {.offset = kIndex, .bytes = 2}; }

    /// What suppress_kicks() and enable_kicks() write.
    [[nodiscard]] std::array<AreaRange, 2> suppression() const {
        return {{{.offset = kFlags, .bytes = 2},
                 {.offset = kEntries + size_t{size_} * kUsedEntryBytes, .bytes = 2}}};
    }

  private:
    [[nodiscard]] Result<bool, RingError> fetch_again(ChainBuilder& builder,
                                                      const ChainSlots& slots);
    [[nodiscard]] Result<void, RingError> fetch_head(uint16_t head,
                                                     ChainBuilder& builder,
                                                     const ChainSlots& slots) const;
    [[nodiscard]] Result<void, RingError> read_chain(uint16_t head, ChainBuilder& builder) const;

    [[nodiscard]] uint16_t mask() const { return static_cast<uint16_t>(size_ - 1); }

    // Offsets within the available and used rings. VIRTIO 1.3, 2.7.6 and 2.7.8.
    static constexpr size_t kFlags = 0;
    static constexpr size_t kIndex = 2;
    static constexpr size_t kEntries = 4;
    static constexpr size_t kAvailableEntryBytes = 2;
    static constexpr size_t kUsedEntryBytes = 8;

    RingAreas areas_;
    uint16_t size_;
    bool event_idx_;
    bool kicks_suppressed_ = false;
    uint16_t next_available_ = 0;  // of the next head to fetch
    uint16_t seen_available_ = 0;  // the driver's index when it was loaded last
    uint16_t last_head_ = 0;       // that was fetched
    uint16_t next_used_ = 0;       // of the next used element, visible or not
    uint16_t visible_used_ = 0;    // what the ring's index says
    uint16_t decided_used_ = 0;    // up to here it was decided whether to call
    std::optional<SplitInflightLog> log_;
    std::vector<SplitInflightLog::Chain> again_;  // to be fetched before all others, oldest last
};

// --- What runs for each request, in the header so that it is inlined --------------------------

inline bool SplitVirtqueue::has_available() const {
    // Acquire pairs with the driver's barrier between writing entries and the available index
    // (VIRTIO 1.3, 2.7.13.3).
    return seen_available_ != next_available_ || !again_.empty() ||
           ring_memory::load<uint16_t>(areas_.driver + kIndex, __ATOMIC_ACQUIRE) != next_available_;
}

inline Result<bool, RingError> SplitVirtqueue::fetch(ChainBuilder& builder,
                                                     const ChainSlots& slots) {
    if (!again_.empty()) [[unlikely]] {
        return fetch_again(builder, slots);
    }
    if (seen_available_ == next_available_) {
        // Acquire: as in has_available().
        const auto available =
            ring_memory::load<uint16_t>(areas_.driver + kIndex, __ATOMIC_ACQUIRE);
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
    const auto head = ring_memory::load<uint16_t>(
        areas_.driver + kEntries + position * kAvailableEntryBytes, __ATOMIC_RELAXED);
    if (const auto fetched = fetch_head(head, builder, slots); !fetched) [[unlikely]] {
        return failure(fetched.error());
    }
    if (log_) {
        log_->note_fetched(head);
        builder.slot().inflight_counter = log_->last_counter();
    }
    last_head_ = head;
    ++next_available_;
    return true;
}

inline void SplitVirtqueue::prefetch(uint16_t count) const {
    constexpr size_t kTogether = kCacheLineBytes / kDescriptorBytes;
    const size_t first = size_t{last_head_} + 1;
    // Tables begin with a line.
    for (size_t at = first - first % kTogether; at < first + count; at += kTogether) {
        prefetch_to_read(areas_.descriptor + (at & mask()) * kDescriptorBytes);
    }
}

inline Result<void, RingError> SplitVirtqueue::fetch_head(uint16_t head,
                                                          ChainBuilder& builder,
                                                          const ChainSlots& slots) const {
    if (head >= size_) [[unlikely]] {
        return failure(RingError::kHeadOutOfRange);
    }
    if (slots.is_in_flight(head)) [[unlikely]] {
        return failure(RingError::kHeadInFlight);
    }
    if (const auto read = read_chain(head, builder); !read) [[unlikely]] {
        return read;
    }
    return builder.finish(head, 1);
}

inline Result<void, RingError> SplitVirtqueue::read_chain(uint16_t head,
                                                          ChainBuilder& builder) const {
    uint16_t index = head;
    for (uint32_t seen = 0; seen < size_; ++seen) {
        const std::byte* const at = areas_.descriptor + size_t{index} * kDescriptorBytes;
        // The one copy; everything is decided on it. Relaxed: ordered by the available index.
        const Descriptor descriptor =
            ring_memory::split_descriptor(ring_memory::load<uint64_t>(at, __ATOMIC_RELAXED),
                                          ring_memory::load<uint64_t>(at + 8, __ATOMIC_RELAXED));
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

inline void SplitVirtqueue::push_used(const ChainSlot& slot, uint32_t written_bytes) {
    std::byte* const at = areas_.device + kEntries +
                          size_t{static_cast<uint16_t>(next_used_ & mask())} * kUsedEntryBytes;
    // Relaxed: the release store in make_visible() orders them for the driver.
    ring_memory::store<uint32_t>(at, slot.head, __ATOMIC_RELAXED);
    ring_memory::store<uint32_t>(at + 4, written_bytes, __ATOMIC_RELAXED);
    ++next_used_;
    if (log_) {
        log_->note_used(slot.head);
    }
}

}  // namespace outrigger
