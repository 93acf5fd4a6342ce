// SPDX-License-Identifier: Apache-2.0
/// The split ring format, device side: descriptor table, available ring, used ring.
/// VIRTIO 1.3, 2.7. What both formats share is in Virtqueue.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/virtq/chain_builder.h"
#include "vhost-user-backend/virtq/chain_slots.h"
#include "vhost-user-backend/virtq/ring_areas.h"
#include "vhost-user-backend/virtq/ring_error.h"

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

    /// Goes to where the ring stands: the available index as the front end gave it, the used index
    /// as the ring has it.
    void start(uint16_t next_available);

    [[nodiscard]] uint16_t next_available() const { return next_available_; }

    [[nodiscard]] bool has_available() const;

    /// Reads the next chain into `builder`: true when there was one, false when the ring is empty.
    /// The position moves only on true.
    [[nodiscard]] Result<bool, RingError> fetch(ChainBuilder& builder, const ChainSlots& slots);

    /// Notes a used chain where the driver does not look yet.
    void push_used(uint16_t head, uint32_t written_bytes, uint16_t descriptor_count);

    /// Makes everything pushed visible.
    void make_visible();

    /// Does the driver want a call for what became visible since this was asked last?
    [[nodiscard]] bool call_wanted();

    void suppress_kicks();
    /// True: there is work already.
    [[nodiscard]] bool enable_kicks();

  private:
    [[nodiscard]] Result<void, RingError> read_chain(uint16_t head, ChainBuilder& builder) const;

    [[nodiscard]] uint16_t mask() const { return static_cast<uint16_t>(size_ - 1); }

    RingAreas areas_;
    uint16_t size_;
    bool event_idx_;
    bool kicks_suppressed_ = false;
    uint16_t next_available_ = 0;  // of the next head to fetch
    uint16_t seen_available_ = 0;  // the driver's index when it was loaded last
    uint16_t next_used_ = 0;       // of the next used element, visible or not
    uint16_t visible_used_ = 0;    // what the ring's index says
    uint16_t decided_used_ = 0;    // up to here it was decided whether to call
};

}  // namespace outrigger
