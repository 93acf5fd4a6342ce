// SPDX-License-Identifier: Apache-2.0
/// The driver's side of a split virtqueue. VIRTIO 1.3, 2.7.
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

/// VIRTIO 1.3, 2.7.5.
struct SplitDescriptor {
    uint64_t address = 0;
    uint32_t length = 0;
    uint16_t flags = 0;
    uint16_t next = 0;
};

/// VIRTIO 1.3, 2.7.8.
struct SplitUsedElement {
    uint32_t id = 0;
    uint32_t length = 0;
};

class SplitRing final {
  public:
    /// Takes the ring's memory, and that of indirect tables, from `memory` (from one region, when
    /// named) and clears it.
    [[nodiscard]] static Result<SplitRing> create(GuestMemory& memory,
                                                  const RingOptions& options,
                                                  std::optional<RegionId> region = std::nullopt);

    /// Puts a chain into the ring; the device sees it after publish(). False, and nothing done,
    /// when too few descriptors are free. `segments` is not empty, and fits an indirect table
    /// where the layout asks for one.
    [[nodiscard]] bool try_add(std::span<const Segment> segments,
                               uint64_t token,
                               ChainLayout layout = ChainLayout::kDirect);

    /// Makes all added chains available with one store.
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

    [[nodiscard]] bool event_idx() const { return event_idx_; }

    [[nodiscard]] DeviceFault fault() const { return fault_; }

    [[nodiscard]] const RingAddresses& addresses() const { return addresses_; }

    /// What GET_VRING_BASE must answer when the device holds nothing.
    [[nodiscard]] uint32_t base() const { return available_index_; }

    /// What SET_VRING_BASE must say to a device that has not seen what is in flight.
    [[nodiscard]] uint32_t start_base() const { return used_index_; }

    /// Clears the ring's memory and begins at index 0, as after a device reset.
    void reset();

    /// Begins at another index, as a guest does whose ring ran before. The ring must be unused.
    void start_at(uint16_t index);

    // --- Single fields, unchecked: for hostile tests and for looking at what the device did ----

    /// `index` < size(). Written as two 8-byte stores, so that it may race with the device.
    void write_descriptor(uint16_t index, const SplitDescriptor& descriptor);
    [[nodiscard]] SplitDescriptor read_descriptor(uint16_t index) const;
    /// `slot` < size().
    void write_available_entry(uint16_t slot, uint16_t head);
    /// Release: the device sees what was written before.
    void write_available_index(uint16_t index);
    void write_available_flags(uint16_t flags);
    void write_used_event(uint16_t index);
    [[nodiscard]] uint16_t read_available_index() const;
    [[nodiscard]] uint16_t read_used_event() const;
    /// Acquire: what the device wrote before is visible.
    [[nodiscard]] uint16_t read_used_index() const;
    [[nodiscard]] uint16_t read_used_flags() const;
    [[nodiscard]] uint16_t read_available_event() const;
    [[nodiscard]] SplitUsedElement read_used_element(uint16_t slot) const;

    /// The next used element whatever its id, for chains that were written by hand. Do not mix
    /// with poll_used().
    [[nodiscard]] std::optional<SplitUsedElement> poll_used_element();

    /// The next slot of the available ring, and the index to store once it is filled.
    [[nodiscard]] uint16_t next_slot() const { return available_index_ & (size_ - 1); }

    [[nodiscard]] uint16_t next_index() const {
        return static_cast<uint16_t>(available_index_ + 1);
    }

    /// Makes the hand-written chain at `head` available and moves on by one: entry, then index.
    void publish_head(uint16_t head);

    /// The indirect table that belongs to a descriptor. RingOptions::indirect_segments_max entries.
    [[nodiscard]] GuestAddr indirect_table(uint16_t descriptor) const;
    void write_indirect(uint16_t descriptor, uint16_t entry, const SplitDescriptor& value);

  private:
    struct Chain {
        uint64_t token = 0;
        uint32_t writable_bytes = 0;
        uint16_t tail = 0;
        uint16_t descriptors = 0;  // 0: not in flight
    };

    SplitRing() = default;

    [[nodiscard]] uint16_t take_descriptor();
    void check_used(const SplitUsedElement& element);
    [[nodiscard]] std::optional<Completion> poll_used_in_order();
    [[nodiscard]] Completion finish_chain(uint16_t head, uint32_t length);
    void fill_table(uint16_t descriptor, std::span<const Segment> segments);

    std::byte* descriptors_ = nullptr;
    std::byte* available_ = nullptr;
    std::byte* used_ = nullptr;
    std::byte* tables_ = nullptr;
    GuestAddr tables_address_{};
    RingAddresses addresses_;
    uint16_t size_ = 0;
    uint16_t indirect_segments_max_ = 0;
    bool event_idx_ = false;
    bool in_order_ = false;

    // Private copies: what lies in shared memory is never read back to decide anything.
    std::vector<Chain> chains_;    // by head
    std::vector<uint16_t> links_;  // descriptor -> next in its chain or in the free list
    ChainOrder order_;             // with IN_ORDER
    uint32_t batch_length_ = 0;    // what the device said of the last chain of a batch
    uint16_t free_head_ = 0;
    uint16_t free_count_ = 0;
    uint32_t in_flight_ = 0;
    uint16_t available_index_ = 0;  // chains added so far
    uint16_t published_index_ = 0;
    uint16_t kicked_index_ = 0;  // published_index_ at the last kick decision
    uint16_t used_index_ = 0;    // next used element to take
    uint16_t used_seen_ = 0;     // the device's used index when it was read last
    DeviceFault fault_ = DeviceFault::kNone;
};

}  // namespace outrigger::driver
