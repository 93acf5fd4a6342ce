// SPDX-License-Identifier: Apache-2.0
/// The in-flight log of a packed ring: copies of the descriptors that the device has, because used
/// descriptors overwrite them in the ring. vhost-user "Inflight I/O tracking", QueueRegionPacked.
///
/// The order of stores is a protocol with whoever reads the log after this process was killed
/// between any two of them; PackedInflightLog::open() is that reader. One thing differs from the
/// letter of the specification: entries of used chains go to the free list when their batch is
/// published, and not before, since a chain that is fetched in between would overwrite them, and
/// the driver would never hear of them if we died then. What lies in memory at any moment is what
/// the specification's own order leaves there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/virtq/inflight_layout.h"
#include "vhost-user-backend/virtq/ring_memory.h"
#include "vhost-user-backend/virtq/ring_position.h"
#include "vhost-user-backend/virtq/split_inflight_log.h"

namespace outrigger {

/// The front end can read and write the memory at any time. So what the log itself needs is kept
/// here as well, and the memory is read by open() and descriptor() alone. Thread-bound: queue
/// worker.
class PackedInflightLog final {
  public:
    /// A chain that is to be taken up again.
    struct Chain {
        uint16_t first = 0;  ///< entry of its first descriptor
        uint16_t count = 0;  ///< of its descriptors
        uint64_t counter = 0;
    };

    /// Where a ring goes on.
    struct Resumption {
        bool from_log = false;  ///< the log says it, and not SET_VRING_BASE
        RingPosition next_used;
        std::vector<Chain> chains;  ///< oldest first
    };

    /// `part` begins at a multiple of 8 bytes; its entries: see fits().
    PackedInflightLog(std::span<std::byte> part, uint16_t ring_size);

    [[nodiscard]] static bool fits(std::span<const std::byte> part, uint16_t ring_size) {
        return part.size() >= PackedInflight::bytes(ring_size);
    }

    /// Reads what is there, completes or takes back a batch that was under way, and begins a log at
    /// `next_used` where there is none. `flags_at` gives the flags of a descriptor of the ring.
    /// `base_is_known`: see InflightArea. Once, and before any other call.
    template <class FlagsAt>
    [[nodiscard]] Result<Resumption, InflightLogError> open(RingPosition next_used,
                                                            bool base_is_known,
                                                            FlagsAt flags_at) {
        auto found = read();
        if (!found) {
            return failure(found.error());
        }
        if (found->exists && found->is_between_batches) {
            const uint16_t flags = flags_at(found->used_before.index);
            found->was_published = !is_available_in_lap(flags, found->used_before.wrap);
        }
        return resume(*found, next_used, base_is_known);
    }

    /// The next descriptor of the chain that is being fetched. Nothing but free entries change.
    void note_descriptor(const Descriptor& descriptor) {
        std::byte* const at = entry(cursor_);
        ring_memory::store<uint64_t>(
            at + PackedInflight::kAddress, descriptor.address, __ATOMIC_RELAXED);
        ring_memory::store<uint32_t>(
            at + PackedInflight::kLength, descriptor.length, __ATOMIC_RELAXED);
        ring_memory::store<uint16_t>(
            at + PackedInflight::kFlags, descriptor.flags, __ATOMIC_RELAXED);
        ring_memory::store<uint16_t>(at + PackedInflight::kId, descriptor.link, __ATOMIC_RELAXED);
        cursor_last_ = cursor_;
        cursor_ = next_[cursor_];
    }

    /// The chain that is being fetched begins again, or another one does.
    void restart_chain() { cursor_ = free_head_; }

    struct Entries {
        uint16_t first = 0;
        uint16_t last = 0;
    };

    /// The device has the chain of `count` descriptors that note_descriptor() told of.
    Entries note_fetched(uint16_t count) {
        const Entries entries{.first = free_head_, .last = cursor_last_};
        std::byte* const at = entry(entries.first);
        ring_memory::store<uint16_t>(at + PackedInflight::kLast, entries.last, __ATOMIC_RELAXED);
        ring_memory::store<uint16_t>(at + PackedInflight::kCount, count, __ATOMIC_RELAXED);
        ring_memory::store<uint64_t>(
            at + PackedInflight::kCounter, next_counter_, __ATOMIC_RELAXED);
        ++next_counter_;
        // Release, here and below, for a reader after our death: whole entries before the mark, and
        // the mark before they leave the list of free ones.
        ring_memory::store<uint8_t>(at + PackedInflight::kInflight, 1, __ATOMIC_RELEASE);
        free_head_ = cursor_;
        store_free_heads(free_head_, free_head_);
        return entries;
    }

    /// The chain is used, but the driver does not look there yet.
    void note_used(const Entries& entries) { batch_.push_back(entries); }

    /// Before the flags that make the batch visible: where the ring will stand then.
    void note_publishing(RingPosition next_used) {
        const uint16_t free_before = free_head_;
        for (const Entries& used : batch_) {
            next_[used.last] = free_head_;
            ring_memory::store<uint16_t>(
                entry(used.last) + PackedInflight::kNext, free_head_, __ATOMIC_RELEASE);
            free_head_ = used.first;
        }
        store_free_heads(free_head_, free_before);
        store_positions(next_used, used_);
        used_ = next_used;
        cursor_ = free_head_;
    }

    /// Behind those flags.
    void note_published() {
        for (const Entries& used : batch_) {
            ring_memory::store<uint8_t>(
                entry(used.first) + PackedInflight::kInflight, 0, __ATOMIC_RELEASE);
        }
        batch_.clear();
        store_free_heads(free_head_, free_head_);
        store_positions(used_, used_);
    }

    /// The copy of a descriptor of a chain that open() gave, and the entry of the next one. Each
    /// field is read once; the front end may have changed it, so it is checked like the driver's.
    [[nodiscard]] Descriptor descriptor(uint16_t index) const;

    [[nodiscard]] uint16_t next_of(uint16_t index) const { return next_[index]; }

    /// The counter of the chain that was noted last.
    [[nodiscard]] uint64_t last_counter() const { return next_counter_ - 1; }

  private:
    /// A copy of the log, taken once.
    struct Found {
        struct Entry {
            uint64_t counter;
            uint16_t next;
            uint16_t last;
            uint16_t count;
            bool in_flight;
        };

        bool exists = false;
        bool is_valid = false;  ///< of this ring
        bool is_between_batches = false;
        bool was_published = false;
        uint16_t free_head = 0;
        uint16_t free_before = 0;
        RingPosition used;
        RingPosition used_before;
        std::vector<Entry> entries;
    };

    [[nodiscard]] static bool is_available_in_lap(uint16_t flags, bool wrap) {
        const bool available = (flags & kDescriptorAvailable) != 0;
        const bool used = (flags & kDescriptorUsed) != 0;
        return available == wrap && used != wrap;
    }

    [[nodiscard]] std::byte* entry(uint16_t index) const {
        return part_ + PackedInflight::kHeaderBytes + size_t{index} * PackedInflight::kEntryBytes;
    }

    void store_free_heads(uint16_t now, uint16_t before) {
        // Release: behind the entries that the list leads to, for open().
        ring_memory::store<uint32_t>(
            part_ + PackedInflight::kFreeHeads, now | uint32_t{before} << 16, __ATOMIC_RELEASE);
    }

    void store_positions(RingPosition now, RingPosition before) {
        const uint64_t word = now.index | uint64_t{before.index} << 16 | uint64_t{now.wrap} << 32 |
                              uint64_t{before.wrap} << 40;
        // Release: behind the list of free entries, for open().
        ring_memory::store<uint64_t>(
            part_ + PackedInflight::kUsedPositions, word, __ATOMIC_RELEASE);
    }

    void begin(RingPosition next_used);
    [[nodiscard]] Result<Found, InflightLogError> read() const;
    [[nodiscard]] Result<std::vector<bool>, InflightLogError> free_entries(
        const Found& found) const;
    [[nodiscard]] Result<std::vector<Chain>, InflightLogError> chains_in(
        const Found& found, std::vector<bool> seen) const;
    [[nodiscard]] Result<Resumption, InflightLogError> resume(Found& found,
                                                              RingPosition next_used,
                                                              bool base_is_known);

    std::byte* part_;
    uint16_t ring_size_;
    uint16_t free_head_ = 0;    // of the list in next_; ring_size_: no entry is free
    uint16_t cursor_ = 0;       // where the next descriptor goes
    uint16_t cursor_last_ = 0;  // where the last one went
    uint64_t next_counter_ = 0;
    RingPosition used_;
    std::vector<uint16_t> next_;  // of each entry, as in the log
    std::vector<Entries> batch_;  // used and not published
};

}  // namespace outrigger
