// SPDX-License-Identifier: Apache-2.0
/// Turns checked copies of descriptors into the segments of a chain. The rules that both ring
/// formats share are here: directions, sizes, translation, indirect tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/virtq/descriptor_chain.h"
#include "vhost-user-backend/virtq/ring_error.h"
#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {

/// Bytes that a chain may hold in each direction. VIRTIO 1.3, 2.7.4 and 2.8.5 say 2^32; the used
/// length has 32 bits, so the last byte could not be reported.
inline constexpr uint64_t kChainBytesMax = std::numeric_limits<uint32_t>::max();

/// Fills one slot with one chain. Cheap to make: one lives for each pop. Nothing but the slot's
/// segment list and the hint changes before finish(), so a failure needs no undoing elsewhere.
/// Thread-bound: queue worker.
class ChainBuilder final {
  public:
    struct Limits {
        bool indirect = false;    ///< VIRTIO_F_INDIRECT_DESC was negotiated
        size_t segments_max = 0;  ///< pieces that one chain may be cut into
        /// Behind an IOMMU: takes what lacks a translation. The walk then goes on as far as it can,
        /// so that one round trip to the front end fetches several, and ends as kBufferUnmapped or
        /// kIndirectUnmapped.
        MissList* misses = nullptr;
        bool told_of = false;  ///< somebody watches the probe of each piece
    };

    /// The slot's segment list must be empty.
    ChainBuilder(const MemorySnapshot& memory,
                 RegionHint& hint,
                 ChainSlot& slot,
                 const Limits& limits)
        : memory_(memory),
          hint_(hint),
          slot_(slot),
          limits_(limits),
          no_piece_is_whole_(limits.told_of ? uint64_t{1} << 32 : 0) {}

    /// Adds the buffer of a direct descriptor, or of one in an indirect table.
    [[nodiscard]] Result<void, RingError> add(const Descriptor& descriptor) {
        const bool writable = (descriptor.flags & kDescriptorWrite) != 0;
        if (writable != writing_) {
            if (!writable) [[unlikely]] {
                return failure(RingError::kReadableAfterWritable);
            }
            begin_writable_part();
        }
        bytes_ += descriptor.length;
        const iovec piece =
            memory_
                .translate_prefix(GuestAddr{descriptor.address}, descriptor.length, hint_, access())
                .as_iovec();
        if (piece.iov_len == descriptor.length + no_piece_is_whole_ && piece.iov_len != 0)
            [[likely]] {
            push(piece);
            return {};
        }
        return add_in_pieces(descriptor);
    }

    /// Adds what the table of an INDIRECT descriptor lists: in a split ring linked by `next`, in a
    /// packed ring one behind the other.
    [[nodiscard]] Result<void, RingError> add_split_table(const Descriptor& descriptor);
    [[nodiscard]] Result<void, RingError> add_packed_table(const Descriptor& descriptor);

    /// The chain is whole: checks its sums and fills in the rest of the slot.
    [[nodiscard]] Result<void, RingError> finish(uint16_t head, uint16_t descriptor_count) {
        if (!writing_) {
            begin_writable_part();
        }
        if (lacks_translations()) [[unlikely]] {
            return failure(RingError::kBufferUnmapped);
        }
        if (readable_bytes_ > kChainBytesMax || bytes_ > kChainBytesMax) [[unlikely]] {
            return failure(RingError::kChainBytesTooMany);
        }
        slot_.readable_segments = readable_segments_;
        slot_.writable_segments = slot_.segments.size() - readable_segments_;
        slot_.readable_bytes = readable_bytes_;
        slot_.writable_bytes = bytes_;
        slot_.head = head;
        slot_.descriptor_count = descriptor_count;
        return {};
    }

    [[nodiscard]] ChainSlot& slot() { return slot_; }

  private:
    void begin_writable_part() {
        writing_ = true;
        readable_segments_ = slot_.segments.size();
        readable_bytes_ = bytes_;
        bytes_ = 0;
    }

    void push(const iovec& piece) {
        if (slot_.segments.size() == slot_.segments.capacity()) [[unlikely]] {
            grow();
        }
        slot_.segments.push_back(piece);
    }

    [[nodiscard]] Access access() const { return writing_ ? Access::kWrite : Access::kRead; }

    [[nodiscard]] bool lacks_translations() const {
        return limits_.misses != nullptr && !limits_.misses->empty();
    }

    struct Table {
        const std::byte* data;  ///< null: the table is in pieces (only behind an IOMMU)
        uint32_t entry_count;
    };

    /// The two halves of one entry of a table.
    struct Entry {
        uint64_t low;
        uint64_t high;
    };

    template <class LoadEntry>
    [[nodiscard]] Result<void, RingError> walk_split_table(uint32_t entry_count, LoadEntry load);
    template <class LoadEntry>
    [[nodiscard]] Result<void, RingError> walk_packed_table(uint32_t entry_count, LoadEntry load);
    [[nodiscard]] uint64_t load_scattered_half(uint64_t address);
    [[nodiscard]] Entry load_scattered_entry(uint64_t table_address, uint32_t index);
    void grow();
    [[nodiscard]] Result<void, RingError> add_in_pieces(const Descriptor& descriptor);
    /// Finds what lacks of a range whose first byte does. An error ends the walk of the chain.
    [[nodiscard]] Result<void, RingError> look_ahead(GuestAddr address, uint64_t length);
    [[nodiscard]] Result<Table, RingError> open_table(const Descriptor& descriptor);

    const MemorySnapshot& memory_;
    RegionHint& hint_;
    ChainSlot& slot_;
    Limits limits_;
    const uint64_t no_piece_is_whole_;  // 0, or more than any buffer has: add_in_pieces() tells
    bool writing_ = false;
    size_t looked_ahead_ = 0;  // places that look_ahead() has seen: its work is bounded
    size_t readable_segments_ = 0;
    uint64_t readable_bytes_ = 0;
    uint64_t bytes_ = 0;  // of the part that is being built; cannot overflow: 2^16 times 2^32
};

}  // namespace outrigger
