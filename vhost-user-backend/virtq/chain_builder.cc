// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/chain_builder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "vhost-user-backend/base/probe.h"

namespace outrigger {
namespace {

/// Room that a slot's list gets at first: more than most requests of block and console devices.
constexpr size_t kFirstSegments = 8;

}  // namespace

void ChainBuilder::grow() {
    slot_.segments.reserve(std::max(kFirstSegments, 2 * slot_.segments.capacity()));
}

Result<void, RingError> ChainBuilder::add_in_pieces(const Descriptor& descriptor) {
    // The specification says nothing of empty buffers and Linux never sends one: they hold no byte,
    // so they become no segment, and nobody looks where they point.
    if (descriptor.length == 0) {
        return {};
    }
    uint64_t address = descriptor.address;
    uint64_t remaining = descriptor.length;
    if (address + (remaining - 1) < address) {
        return failure(RingError::kBufferWraps);
    }
    // Each round moves on to another region, and regions do not overlap: as many rounds as regions.
    while (remaining > 0) {
        const iovec piece =
            memory_.translate_prefix(GuestAddr{address}, remaining, hint_, access()).as_iovec();
        if (piece.iov_len == 0) {
            if (limits_.misses == nullptr) {
                return failure(RingError::kBufferUnmapped);
            }
            return look_ahead(GuestAddr{address}, remaining);
        }
        if (slot_.segments.size() >= limits_.segments_max) {
            return failure(RingError::kChainTooLong);
        }
        OUTRIGGER_PROBE(translate, address, remaining, piece.iov_len);
        push(piece);
        address += piece.iov_len;
        remaining -= piece.iov_len;
    }
    return {};
}

Result<void, RingError> ChainBuilder::look_ahead(GuestAddr address, uint64_t length) {
    looked_ahead_ += memory_.find_misses(
        address, length, access(), *limits_.misses, limits_.segments_max - looked_ahead_);
    // A chain that is served has no more pieces than this. What was found is enough to ask for.
    const bool enough = limits_.misses->full() || looked_ahead_ == limits_.segments_max;
    return enough ? failure(RingError::kBufferUnmapped) : Result<void, RingError>{};
}

Result<ChainBuilder::Table, RingError> ChainBuilder::open_table(const Descriptor& descriptor) {
    if (!limits_.indirect) {
        return failure(RingError::kIndirectNotNegotiated);
    }
    if ((descriptor.flags & kDescriptorNext) != 0) {
        return failure(RingError::kIndirectWithNext);
    }
    if (descriptor.length == 0 || descriptor.length % kDescriptorBytes != 0) {
        return failure(RingError::kIndirectLength);
    }
    const uint32_t entry_count = descriptor.length / kDescriptorBytes;
    if (entry_count > kIndirectEntriesMax) {
        return failure(RingError::kIndirectTooLong);
    }
    const GuestAddr address{descriptor.address};
    const iovec range =
        memory_.translate_prefix(address, descriptor.length, hint_, Access::kRead).as_iovec();
    if (range.iov_len == descriptor.length) {
        return Table{.data = static_cast<const std::byte*>(range.iov_base),
                     .entry_count = entry_count};
    }
    if (limits_.misses == nullptr) {
        return failure(RingError::kIndirectUnmapped);
    }
    if (descriptor.address + (descriptor.length - 1) < descriptor.address) {
        return failure(RingError::kBufferWraps);
    }
    memory_.find_misses(address, descriptor.length, Access::kRead, *limits_.misses);
    if (lacks_translations()) {
        return failure(RingError::kIndirectUnmapped);
    }
    // A table is contiguous for the driver; behind an IOMMU its pages may be anywhere.
    return Table{.data = nullptr, .entry_count = entry_count};
}

uint64_t ChainBuilder::load_scattered_half(uint64_t address) {
    // All of the table is translated, and a half lies on two pages at most.
    std::array<std::byte, sizeof(uint64_t)> half{};
    for (size_t done = 0; done < half.size();) {
        const iovec piece =
            memory_.translate_prefix(GuestAddr{address}, half.size() - done, hint_, Access::kRead)
                .as_iovec();
        OUTRIGGER_ASSERT(piece.iov_len > 0);
        ring_memory::load_bytes(static_cast<const std::byte*>(piece.iov_base),
                                std::span(half).subspan(done, piece.iov_len));
        done += piece.iov_len;
        address += piece.iov_len;
    }
    return ring_memory::swap_if_big(std::bit_cast<uint64_t>(half));
}

ChainBuilder::Entry ChainBuilder::load_scattered_entry(uint64_t table_address, uint32_t index) {
    const uint64_t address = table_address + uint64_t{index} * kDescriptorBytes;
    return {.low = load_scattered_half(address), .high = load_scattered_half(address + 8)};
}

template <class LoadEntry>
Result<void, RingError> ChainBuilder::walk_split_table(uint32_t entry_count, LoadEntry load) {
    uint32_t index = 0;
    for (uint32_t seen = 0; seen < entry_count; ++seen) {
        const Entry halves = load(index);
        const Descriptor entry = ring_memory::split_descriptor(halves.low, halves.high);
        if ((entry.flags & kDescriptorIndirect) != 0) {
            return failure(RingError::kIndirectNested);
        }
        if (const auto added = add(entry); !added) {
            return added;
        }
        if ((entry.flags & kDescriptorNext) == 0) {
            return {};
        }
        if (entry.link >= entry_count) {
            return failure(RingError::kNextOutOfRange);
        }
        index = entry.link;
    }
    return failure(RingError::kChainTooLong);
}

template <class LoadEntry>
Result<void, RingError> ChainBuilder::walk_packed_table(uint32_t entry_count, LoadEntry load) {
    for (uint32_t index = 0; index < entry_count; ++index) {
        // VIRTIO 1.3, 2.8.7: "The VIRTQ_DESC_F_WRITE flags bit is the only valid flag for
        // descriptors in the indirect table. Others are reserved and are ignored by the device.
        // Buffer ID is also reserved and is ignored by the device." So INDIRECT is no error here,
        // as it is in a split table: the entry is a plain buffer.
        const Entry halves = load(index);
        const Descriptor entry = ring_memory::packed_descriptor(halves.low, halves.high);
        if (const auto added = add(entry); !added) {
            return added;
        }
    }
    return {};
}

Result<void, RingError> ChainBuilder::add_split_table(const Descriptor& descriptor) {
    const Table table = OUTRIGGER_TRY(open_table(descriptor));
    if (table.data == nullptr) [[unlikely]] {
        return walk_split_table(table.entry_count, [&](uint32_t index) {
            return load_scattered_entry(descriptor.address, index);
        });
    }
    return walk_split_table(table.entry_count, [data = table.data](uint32_t index) -> Entry {
        const std::byte* const at = data + size_t{index} * kDescriptorBytes;
        return {.low = ring_memory::load_any_alignment(at),
                .high = ring_memory::load_any_alignment(at + 8)};
    });
}

Result<void, RingError> ChainBuilder::add_packed_table(const Descriptor& descriptor) {
    const Table table = OUTRIGGER_TRY(open_table(descriptor));
    if (table.data == nullptr) [[unlikely]] {
        return walk_packed_table(table.entry_count, [&](uint32_t index) {
            return load_scattered_entry(descriptor.address, index);
        });
    }
    return walk_packed_table(table.entry_count, [data = table.data](uint32_t index) -> Entry {
        const std::byte* const at = data + size_t{index} * kDescriptorBytes;
        return {.low = ring_memory::load_any_alignment(at),
                .high = ring_memory::load_any_alignment(at + 8)};
    });
}

}  // namespace outrigger
