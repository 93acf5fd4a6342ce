// SPDX-License-Identifier: Apache-2.0
/// The driver's side of a packed virtqueue. VIRTIO 1.3, 2.8.
///
/// The upper part of the class is a well-behaved driver: chains in, completions out, nothing
/// allocated on the way. The lower part writes single fields, for tests that misbehave.
///
/// Thread-bound. Lives in a GuestMemory region, which must outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/chain_order.h"
#include "tools/driver/guest_memory.h"
#include "tools/driver/ring_types.h"

namespace outrigger::driver {

inline constexpr uint16_t kPackedAvailable = 1U << 7;
inline constexpr uint16_t kPackedUsed = 1U << 15;

/// VIRTIO 1.3, 2.8.13.
struct PackedDescriptor {
    uint64_t address = 0;
    uint32_t length = 0;
    uint16_t id = 0;
    uint16_t flags = 0;
};

/// Event suppression, VIRTIO 1.3, 2.8.14.
enum class PackedEvents : uint16_t {
    kEnable = 0,
    kDisable = 1,
    kDescriptor = 2,  ///< only with EVENT_IDX
};

struct PackedEventSuppression {
    uint16_t offset_and_wrap = 0;  ///< bits 0-14 a slot, bit 15 the wrap counter there
    uint16_t flags = 0;            ///< a PackedEvents, or what a hostile side writes
};

class PackedRing final {
  public:
    /// Takes the ring's memory, and that of indirect tables, from `memory` (from one region, when
    /// named) and clears it. Any size from 1 to kRingSizeMax.
    [[nodiscard]] static Result<PackedRing> create(GuestMemory& memory,
                                                   const RingOptions& options,
                                                   std::optional<RegionId> region = std::nullopt);

    /// Puts a chain into the ring; the device sees it after publish(). False, and nothing done,
    /// when too few slots are free. `segments` is not empty, and fits an indirect table where the
    /// layout asks for one. ChainLayout::kMixed does not exist here (2.8.19).
    [[nodiscard]] bool try_add(std::span<const Segment> segments,
                               uint64_t token,
                               ChainLayout layout = ChainLayout::kDirect);

    /// Makes all added chains available with one store: the flags of the first one's head.
    void publish();

    /// Does the device want a kick for what was published since this was asked last?
    [[nodiscard]] bool kick_needed();

    /// The next completion, in the order in which the device used them.
    [[nodiscard]] std::optional<Completion> poll_used();

    /// Tells the device that calls are not needed.
    void suppress_calls();

    /// Asks for a call at the next completion. True: one came meanwhile, so do not sleep.
    [[nodiscard]] bool enable_calls();

    [[nodiscard]] uint16_t size() const { return size_; }

    [[nodiscard]] uint16_t free_descriptors() const { return free_count_; }

    [[nodiscard]] uint32_t in_flight() const { return in_flight_; }

    [[nodiscard]] DeviceFault fault() const { return fault_; }

    [[nodiscard]] const RingAddresses& addresses() const { return addresses_; }

    /// What GET_VRING_BASE must answer when the device holds nothing: bits 0-14 the next available
    /// slot, 15 its wrap counter, 16-30 and 31 the same for used.
    [[nodiscard]] uint32_t base() const;

    /// What SET_VRING_BASE must say to a device that has not seen what is in flight.
    [[nodiscard]] uint32_t start_base() const;

    /// Clears the ring's memory and begins at slot 0 with both wrap counters 1.
    void reset();

    // --- Single fields, unchecked: for hostile tests and for looking at what the device did ----

    /// `slot` < size(). The flags are stored last, with release.
    void write_descriptor(uint16_t slot, const PackedDescriptor& descriptor);
    [[nodiscard]] PackedDescriptor read_descriptor(uint16_t slot) const;
    /// Release: the device sees what was written before.
    void write_flags(uint16_t slot, uint16_t flags);
    /// The driver's wishes about calls.
    void write_driver_event(const PackedEventSuppression& event);
    [[nodiscard]] PackedEventSuppression read_driver_event() const;
    /// The device's wishes about kicks.
    [[nodiscard]] PackedEventSuppression read_device_event() const;

    /// The slot that the next chain begins at, and the flags that make a descriptor there
    /// available.
    [[nodiscard]] uint16_t next_slot() const { return available_slot_; }

    [[nodiscard]] uint16_t available_flags() const { return flags_for(available_wrap_); }

    /// Moves the available position behind `count` hand-written descriptors, count <= size().
    void skip_slots(uint16_t count);

    /// The next used descriptor whatever its id. `count`: the slots its chain took. Do not mix with
    /// poll_used().
    [[nodiscard]] std::optional<PackedDescriptor> poll_used_descriptor(uint16_t count);

    /// The indirect table that belongs to a buffer id. RingOptions::indirect_segments_max entries.
    [[nodiscard]] GuestAddr indirect_table(uint16_t id) const;
    void write_indirect(uint16_t id, uint16_t entry, const PackedDescriptor& value);

  private:
    struct Chain {
        uint64_t token = 0;
        uint32_t writable_bytes = 0;
        uint16_t slots = 0;  // 0: not in flight
        uint16_t next_free = 0;
    };

    PackedRing() = default;

    [[nodiscard]] static uint16_t flags_for(bool wrap) {
        return wrap ? kPackedAvailable : kPackedUsed;
    }

    [[nodiscard]] bool next_is_used() const;
    [[nodiscard]] Completion finish_chain(uint16_t id, uint32_t length);
    void put(const PackedDescriptor& descriptor);
    void fill_table(uint16_t id, std::span<const Segment> segments);
    void advance_used(uint16_t slots);

    std::byte* descriptors_ = nullptr;
    std::byte* driver_event_ = nullptr;
    std::byte* device_event_ = nullptr;
    std::byte* tables_ = nullptr;
    GuestAddr tables_address_{};
    RingAddresses addresses_;
    uint16_t size_ = 0;
    uint16_t indirect_segments_max_ = 0;
    bool event_idx_ = false;
    bool in_order_ = false;

    std::vector<Chain> chains_;  // by buffer id
    ChainOrder order_;           // with IN_ORDER
    uint32_t batch_length_ = 0;  // what the device said of the last chain of a batch
    uint16_t free_id_ = 0;
    uint16_t free_count_ = 0;
    uint32_t in_flight_ = 0;
    uint16_t available_slot_ = 0;
    uint16_t used_slot_ = 0;
    bool available_wrap_ = true;
    bool used_wrap_ = true;
    bool pending_ = false;       // chains were added behind a head that is not published yet
    uint16_t pending_slot_ = 0;  // that head
    uint16_t pending_flags_ = 0;
    uint16_t unpublished_ = 0;  // slots filled since the last publish()
    uint32_t unkicked_ = 0;     // slots published since the last kick decision
    DeviceFault fault_ = DeviceFault::kNone;
};

}  // namespace outrigger::driver
