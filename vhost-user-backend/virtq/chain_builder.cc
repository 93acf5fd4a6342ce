// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/chain_builder.h"

#include <algorithm>

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
            memory_.translate_prefix(GuestAddr{address}, remaining, hint_).as_iovec();
        if (piece.iov_len == 0) {
            return failure(RingError::kBufferUnmapped);
        }
        if (slot_.segments.size() >= limits_.segments_max) {
            return failure(RingError::kChainTooLong);
        }
        push(piece);
        address += piece.iov_len;
        remaining -= piece.iov_len;
    }
    return {};
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
    const iovec range =
        memory_.translate_prefix(GuestAddr{descriptor.address}, descriptor.length, hint_)
            .as_iovec();
    if (range.iov_len != descriptor.length) {
        return failure(RingError::kIndirectUnmapped);
    }
    return Table{.data = static_cast<const std::byte*>(range.iov_base), .entry_count = entry_count};
}

Result<void, RingError> ChainBuilder::add_split_table(const Descriptor& descriptor) {
    const Table table = OUTRIGGER_TRY(open_table(descriptor));
    uint32_t index = 0;
    for (uint32_t seen = 0; seen < table.entry_count; ++seen) {
        const std::byte* const at = table.data + size_t{index} * kDescriptorBytes;
        const Descriptor entry = ring_memory::split_descriptor(
            ring_memory::load_any_alignment(at), ring_memory::load_any_alignment(at + 8));
        if ((entry.flags & kDescriptorIndirect) != 0) {
            return failure(RingError::kIndirectNested);
        }
        if (const auto added = add(entry); !added) {
            return added;
        }
        if ((entry.flags & kDescriptorNext) == 0) {
            return {};
        }
        if (entry.link >= table.entry_count) {
            return failure(RingError::kNextOutOfRange);
        }
        index = entry.link;
    }
    return failure(RingError::kChainTooLong);
}

Result<void, RingError> ChainBuilder::add_packed_table(const Descriptor& descriptor) {
    const Table table = OUTRIGGER_TRY(open_table(descriptor));
    for (uint32_t index = 0; index < table.entry_count; ++index) {
        const std::byte* const at = table.data + size_t{index} * kDescriptorBytes;
        // VIRTIO 1.3, 2.8.7: "The VIRTQ_DESC_F_WRITE flags bit is the only valid flag for
        // descriptors in the indirect table. Others are reserved and are ignored by the device.
        // Buffer ID is also reserved and is ignored by the device." So INDIRECT is no error here,
        // as it is in a split table: the entry is a plain buffer.
        const Descriptor entry = ring_memory::packed_descriptor(
            ring_memory::load_any_alignment(at), ring_memory::load_any_alignment(at + 8));
        if (const auto added = add(entry); !added) {
            return added;
        }
    }
    return {};
}

}  // namespace outrigger
