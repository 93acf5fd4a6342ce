// SPDX-License-Identifier: Apache-2.0
/// The chains that a ring has out: their slots, which ids they carry, how much memory they take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vhost-user-backend/virtq/descriptor_chain.h"

namespace outrigger {

/// Thread-bound: queue worker. Nothing is allocated behind the constructor, but for the segment
/// lists, which keep their room.
class ChainSlots final {
  public:
    struct Limits {
        uint16_t size = 0;            ///< entries of the ring
        uint32_t id_count = 0;        ///< ids run from 0 to this - 1
        bool iommu = false;           ///< buffers come in pages
        bool keeps_writable = false;  ///< ChainSlot::keep_writable()
    };

    explicit ChainSlots(const Limits& limits);

    /// An empty slot to build the next chain in. There is always one: a ring that is valid has at
    /// most `size` chains out, and one slot more exists for finding out that it is not.
    [[nodiscard]] ChainSlot& peek() {
        ChainSlot& slot = *free_.back();
        slot.segments.clear();
        slot.is_replayed = false;
        slot.has_record = false;
        return slot;
    }

    /// The peeked slot now holds a chain whose head is not in flight.
    void take(const ChainSlot& slot) {
        free_.pop_back();
        word_of(slot.head) |= bit_of(slot.head);
        segments_in_flight_ += slot.segments.size();
        ++in_flight_;
    }

    /// Takes a completed chain back.
    void put_back(ChainSlot& slot) {
        word_of(slot.head) &= ~bit_of(slot.head);
        segments_in_flight_ -= slot.segments.size();
        --in_flight_;
        if (slot.segments.capacity() > kSegmentsKept) [[unlikely]] {
            std::vector<iovec>().swap(slot.segments);
        }
        free_.push_back(&slot);
    }

    [[nodiscard]] bool is_in_flight(uint16_t id) const {
        return (ids_[id / kWordBits] & bit_of(id)) != 0;
    }

    /// The number of a slot, from 0 to slot_count() - 1.
    [[nodiscard]] size_t number_of(const ChainSlot& slot) const {
        return static_cast<size_t>(&slot - slots_.data());
    }

    [[nodiscard]] size_t slot_count() const { return slots_.size(); }

    [[nodiscard]] uint32_t in_flight() const { return in_flight_; }

    /// Do the chains that are out take so much memory that no more should be popped?
    [[nodiscard]] bool are_full() const { return segments_in_flight_ >= in_flight_max_; }

    /// Pieces that one chain may have, and where there is no IOMMU all chains together. A driver
    /// that means well needs one for each descriptor, behind an IOMMU one for each page; the bounds
    /// are for those that do not.
    [[nodiscard]] size_t segments_max() const { return segments_max_; }

  private:
    static constexpr uint32_t kWordBits = 64;

    /// A list that grew beyond this is released when its chain comes back, so that one freak
    /// request in each slot does not hold memory for ever.
    static constexpr size_t kSegmentsKept = 256;

    [[nodiscard]] uint64_t& word_of(uint16_t id) { return ids_[id / kWordBits]; }

    [[nodiscard]] static uint64_t bit_of(uint16_t id) { return uint64_t{1} << (id % kWordBits); }

    std::vector<ChainSlot> slots_;
    std::vector<ChainSlot*> free_;  // last in, first out: the slot used last is still in the cache
    std::vector<uint64_t> ids_;     // one bit for each id
    size_t segments_max_;
    size_t in_flight_max_;  // segments, of all chains
    size_t segments_in_flight_ = 0;
    uint32_t in_flight_ = 0;
};

}  // namespace outrigger
