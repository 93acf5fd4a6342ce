// SPDX-License-Identifier: Apache-2.0
/// What both ring formats have in common, seen from the driver. VIRTIO 1.3, 2.7 and 2.8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "vhost-user-backend/guest/addresses.h"

namespace outrigger::driver {

inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;

inline constexpr size_t kDescriptorBytes = 16;
/// VIRTIO 1.3, 2.7 and 2.8.10.
inline constexpr uint32_t kRingSizeMax = 32768;

/// One buffer of a chain. Device-readable ones come before device-writable ones.
struct Segment {
    GuestAddr address{};
    uint32_t length = 0;
    bool device_writable = false;
};

/// How a chain lies in the ring.
enum class ChainLayout : uint8_t {
    kDirect,    ///< one ring descriptor a segment
    kIndirect,  ///< one ring descriptor, naming a table of all segments
    kMixed,     ///< the first segment direct, then a table of the others; split rings only
};

/// A request that the device is done with.
struct Completion {
    uint64_t token = 0;   ///< what the request was added with
    uint32_t length = 0;  ///< bytes that the device says it wrote
};

/// What a device did wrong. The ring yields nothing more once it has one.
enum class DeviceFault : uint8_t {
    kNone,
    kUsedIndexJump,      ///< more used entries than chains in flight
    kUsedIdOutOfRange,   ///< id >= ring size
    kUsedIdNotInFlight,  ///< a head or buffer id that the device does not hold
    kUsedOutOfOrder,     ///< with IN_ORDER: a chain was used before an earlier one
};

[[nodiscard]] std::string_view describe(DeviceFault fault);

/// Of the device-writable segments together; below 2^32 in a chain that VIRTIO 1.3, 2.7.4 allows.
[[nodiscard]] uint32_t writable_bytes(std::span<const Segment> segments);

/// Where the three areas of a ring lie, for SET_VRING_ADDR.
struct RingAddresses {
    GuestAddr descriptor_area{};
    GuestAddr driver_area{};
    GuestAddr device_area{};
};

struct RingOptions {
    uint16_t size = 0;  ///< 1 to kRingSizeMax; a power of two for split rings
    bool event_idx = false;
    /// Segments that an indirect table has room for; 0: no tables, only ChainLayout::kDirect.
    uint16_t indirect_segments_max = 0;
    /// VIRTIO_F_IN_ORDER: the device uses chains in order, and may tell of a batch by its last one.
    bool in_order = false;
};

}  // namespace outrigger::driver
