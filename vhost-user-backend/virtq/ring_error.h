// SPDX-License-Identifier: Apache-2.0
/// What can go wrong with a ring, mostly by its driver. Each breaks that ring alone: no more
/// descriptors are fetched from it, its error eventfd is signalled, the device status shows
/// NEEDS_RESET, and the other rings go on. VIRTIO 1.3, 2.7 (split) and 2.8 (packed).
#pragma once

#include <cstdint>
#include <string_view>

namespace outrigger {

enum class RingError : uint8_t {
    kAvailableIndexJump,     ///< more new heads than the ring holds (2.7.6)
    kHeadOutOfRange,         ///< head index >= queue size
    kHeadInFlight,           ///< a head or buffer id made available again before it was used
    kNextOutOfRange,         ///< next >= queue size or table length
    kChainTooLong,           ///< loop, or more descriptors than the ring or table has
    kIndirectNotNegotiated,  ///< INDIRECT without VIRTIO_F_INDIRECT_DESC
    kIndirectNested,         ///< INDIRECT inside an indirect table
    kIndirectWithNext,       ///< INDIRECT and NEXT in one descriptor
    kIndirectLength,         ///< table length 0 or not a multiple of 16
    kIndirectTooLong,        ///< table of more than kIndirectEntriesMax entries
    kIndirectUnmapped,       ///< table outside guest memory or across two regions
    kReadableAfterWritable,  ///< device-readable buffer behind a device-writable one
    kBufferUnmapped,         ///< buffer not, or not wholly, in guest memory
    kBufferWraps,            ///< address + length beyond 2^64
    kChainBytesTooMany,      ///< more than 2^32 - 1 bytes in one direction
    kDevice,                 ///< the device cannot answer the request in any way (see the log)
    kKickBroken,             ///< the kick descriptor cannot be read as a notification
    kMemoryLost,             ///< guest memory is gone: its file was truncated, or has no pages
    kRingUnmapped,           ///< the IOMMU gives the ring's memory not, or in unusable pieces
    kDirtyLog,               ///< a page that was written has no bit in the front end's dirty log
    kInflightLog,            ///< the in-flight log of an earlier run cannot be of this ring
};

inline constexpr size_t kRingErrorCount = 21;

/// A table of more entries breaks the ring. QEMU, Linux and the DPDK drivers stay far below.
inline constexpr uint32_t kIndirectEntriesMax = 1024;

[[nodiscard]] std::string_view describe(RingError error);

}  // namespace outrigger
