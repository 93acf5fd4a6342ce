// SPDX-License-Identifier: Apache-2.0
/// Where things are in a queue's part of the in-flight buffer. vhost-user "Inflight I/O tracking",
/// QueueRegionSplit and QueueRegionPacked. All fields are little-endian here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger {

/// Each queue's part begins at a multiple of this, as DPDK and libvhost-user have it.
inline constexpr size_t kInflightAlignment = 64;

/// The largest buffer that is mapped: 256 queues of 32768 entries of 32 bytes, and headers.
inline constexpr uint64_t kInflightBytesMax = uint64_t{1} << 29;

/// What both formats have at the start of the header.
struct InflightHeader {
    static constexpr size_t kFeatures = 0;  ///< 64 bits, 0
    static constexpr size_t kVersion = 8;   ///< 16 bits: 0 nothing is noted yet, 1 the one there is
    static constexpr size_t kEntryCount = 10;  ///< 16 bits: the size of the ring

    static constexpr uint16_t kVersionNone = 0;
    static constexpr uint16_t kVersionOne = 1;
};

struct SplitInflight : InflightHeader {
    static constexpr size_t kLastBatchHead = 12;
    static constexpr size_t kUsedIndex = 14;
    static constexpr size_t kHeaderBytes = 16;

    // Of an entry; there is one for each descriptor, and those of heads are used.
    static constexpr size_t kInflight = 0;  ///< 8 bits
    static constexpr size_t kNext = 6;
    static constexpr size_t kCounter = 8;
    static constexpr size_t kEntryBytes = 16;

    [[nodiscard]] static constexpr size_t bytes(size_t entries) {
        return round_up(kHeaderBytes + entries * kEntryBytes);
    }

    [[nodiscard]] static constexpr size_t round_up(size_t bytes) {
        return (bytes + kInflightAlignment - 1) / kInflightAlignment * kInflightAlignment;
    }
};

struct PackedInflight : InflightHeader {
    /// 16 bits each, of which one store writes both: the head of the list of free entries, and what
    /// it was before the batch that is being published.
    static constexpr size_t kFreeHeads = 12;
    /// 16 bits used index, 16 bits the one before the batch, 8 bits wrap counter, 8 bits the one
    /// before, 16 bits padding: one store writes all, so that an index never stands beside the wrap
    /// counter of another.
    static constexpr size_t kUsedPositions = 16;
    /// The structure of the specification ends behind 29 bytes; its entries are aligned to 8.
    static constexpr size_t kHeaderBytes = 32;

    // Of an entry, which holds a copy of one descriptor.
    static constexpr size_t kInflight = 0;  ///< 8 bits
    static constexpr size_t kNext = 2;
    static constexpr size_t kLast = 4;
    static constexpr size_t kCount = 6;
    static constexpr size_t kCounter = 8;
    static constexpr size_t kId = 16;
    static constexpr size_t kFlags = 18;
    static constexpr size_t kLength = 20;
    static constexpr size_t kAddress = 24;
    static constexpr size_t kEntryBytes = 32;

    [[nodiscard]] static constexpr size_t bytes(size_t entries) {
        return SplitInflight::round_up(kHeaderBytes + entries * kEntryBytes);
    }
};

}  // namespace outrigger
