// SPDX-License-Identifier: Apache-2.0
/// The packed ring format, device side: one ring of descriptors that both sides rewrite, and two
/// event suppression structures. VIRTIO 1.3, 2.8. What both formats share is in Virtqueue.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/virtq/chain_builder.h"
#include "vhost-user-backend/virtq/chain_slots.h"
#include "vhost-user-backend/virtq/ring_areas.h"
#include "vhost-user-backend/virtq/ring_error.h"

namespace outrigger {

/// Calls other than set_areas(), start() and the positions need areas. Thread-bound: queue worker.
class PackedVirtqueue final {
  public:
    /// A place in the ring and the lap's parity: the wrap counter starts at 1 and flips with each
    /// lap.
    struct Position {
        uint16_t index = 0;
        bool wrap = true;

        friend bool operator==(const Position&, const Position&) = default;
    };

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

    [[nodiscard]] Position next_available() const { return next_available_; }

    [[nodiscard]] Position next_used() const { return next_used_; }

    [[nodiscard]] bool has_available() const;

    /// Reads the next chain into `builder`: true when there was one, false when the ring is empty.
    /// The position moves only on true.
    [[nodiscard]] Result<bool, RingError> fetch(ChainBuilder& builder, const ChainSlots& slots);

    /// Notes a used chain where the driver does not look yet.
    void push_used(uint16_t id, uint32_t written_bytes, uint16_t descriptor_count);

    /// Makes everything pushed visible. Something was pushed.
    void make_visible();

    /// Does the driver want a call for what became visible since this was asked last?
    [[nodiscard]] bool call_wanted();

    void suppress_kicks();
    /// True: there is work already.
    [[nodiscard]] bool enable_kicks();

  private:
    struct ChainEnd {
        uint16_t id = 0;
        uint16_t entry_count = 0;
    };

    [[nodiscard]] Result<ChainEnd, RingError> read_chain(uint16_t entries_max,
                                                         ChainBuilder& builder) const;
    [[nodiscard]] std::byte* entry(uint16_t index) const;
    [[nodiscard]] Position behind(Position position, uint16_t entry_count) const;

    RingAreas areas_;
    uint16_t size_;
    bool event_idx_;
    bool kicks_suppressed_ = false;
    uint16_t entries_in_flight_ = 0;   // ring entries of chains that were fetched and not pushed
    Position next_available_;          // of the next chain to fetch
    Position next_used_;               // of the next used descriptor, visible or not
    uint16_t first_unseen_ = 0;        // where the batch that is not visible yet begins
    uint16_t first_unseen_flags_ = 0;  // what its flags will be
    uint16_t unseen_entries_ = 0;      // how many entries it covers; 0: there is no batch
    uint32_t undecided_entries_ = 0;   // visible, but not yet decided whether to call
};

}  // namespace outrigger
