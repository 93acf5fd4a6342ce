// SPDX-License-Identifier: Apache-2.0
/// The in-flight log of a split ring: which heads the device has, so that a successor can take
/// them up again. vhost-user "Inflight I/O tracking", QueueRegionSplit.
///
/// The order of stores is a protocol with whoever reads the log after this process was killed
/// between any two of them; SplitInflightLog::open() is that reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/virtq/inflight_layout.h"
#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {

/// What a log that was left behind cannot be.
enum class InflightLogError : uint8_t {
    kTooSmall,  ///< the part has fewer entries than the ring
    kVersion,   ///< of another version, or of a ring of another size
    kIndex,     ///< an index beyond the entries
    kList,      ///< a list with a loop, or an entry in two places
    kCounter,   ///< the order of requests is out of range
};

/// The front end can read and write the memory at any time. So what the log itself needs is kept
/// here as well, and the memory is read by open() alone. Thread-bound: queue worker.
class SplitInflightLog final {
  public:
    /// A chain that is to be taken up again.
    struct Chain {
        uint16_t head = 0;
        uint64_t counter = 0;
    };

    /// Where a ring goes on.
    struct Resumption {
        /// The log says it, and not SET_VRING_BASE.
        bool from_log = false;
        /// Chains to take up again, oldest first. The ring's next available index is the used index
        /// and as many.
        std::vector<Chain> chains;
    };

    /// `part` begins at a multiple of 8 bytes; its entries: see fits().
    SplitInflightLog(std::span<std::byte> part, uint16_t ring_size);

    [[nodiscard]] static bool fits(std::span<const std::byte> part, uint16_t ring_size) {
        return part.size() >= SplitInflight::bytes(ring_size);
    }

    /// Reads what is there, completes a batch that was under way, and begins a log where there is
    /// none. `used_index` as the ring has it. `base_is_known`: see InflightArea. Once, and before
    /// any other call.
    [[nodiscard]] Result<Resumption, InflightLogError> open(uint16_t used_index,
                                                            bool base_is_known);

    /// The device has the chain of this head from now on.
    void note_fetched(uint16_t head) {
        std::byte* const at = entry(head);
        ring_memory::store<uint64_t>(at + SplitInflight::kCounter, next_counter_, __ATOMIC_RELAXED);
        ++next_counter_;
        // Release, here and below, for a reader after our death: the counter before the mark.
        ring_memory::store<uint8_t>(at + SplitInflight::kInflight, 1, __ATOMIC_RELEASE);
    }

    /// The chain is in the used ring, where the driver does not look yet.
    void note_used(uint16_t head) {
        ring_memory::store<uint16_t>(
            entry(head) + SplitInflight::kNext, last_batch_head_, __ATOMIC_RELAXED);
        last_batch_head_ = head;
        ring_memory::store<uint16_t>(part_ + SplitInflight::kLastBatchHead, head, __ATOMIC_RELEASE);
        batch_.push_back(head);
    }

    /// The ring's used index is now `used_index`: all that note_used() named is the driver's.
    void note_published(uint16_t used_index) {
        for (const uint16_t head : batch_) {
            // Release: behind the ring's index.
            ring_memory::store<uint8_t>(
                entry(head) + SplitInflight::kInflight, 0, __ATOMIC_RELEASE);
        }
        batch_.clear();
        ring_memory::store<uint16_t>(
            part_ + SplitInflight::kUsedIndex, used_index, __ATOMIC_RELEASE);
    }

    /// The counter of the chain that was noted last.
    [[nodiscard]] uint64_t last_counter() const { return next_counter_ - 1; }

  private:
    struct Found;

    [[nodiscard]] std::byte* entry(uint16_t index) const {
        return part_ + SplitInflight::kHeaderBytes + size_t{index} * SplitInflight::kEntryBytes;
    }

    void begin(uint16_t used_index);
    [[nodiscard]] Result<Resumption, InflightLogError> take_up(uint16_t used_index,
                                                               bool base_is_known);
    [[nodiscard]] Result<Found, InflightLogError> read() const;

    std::byte* part_;
    uint16_t ring_size_;
    uint16_t last_batch_head_ = 0;
    uint64_t next_counter_ = 0;
    std::vector<uint16_t> batch_;  // used and not published
};

}  // namespace outrigger
