// SPDX-License-Identifier: Apache-2.0
/// What a ring is like before it runs, and why it may not be possible.
#pragma once

#include <cstdint>

#include "vhost-user-backend/guest/addresses.h"

namespace outrigger {

class IntakeGate;
struct QueueMetrics;

/// VIRTIO 1.3, 2.7 and 2.8.10: the largest queue size.
inline constexpr uint32_t kQueueSizeLimit = 32768;

/// How a ring is laid out and what was negotiated for it.
struct VirtqueueConfig {
    uint16_t size = 0;  ///< 1 to kQueueSizeLimit; a power of two for split rings
    bool packed = false;
    bool event_idx = false;
    bool indirect = false;
    bool in_order = false;             ///< used in the order in which it was made available
    bool version_1 = false;            ///< the driver is not a legacy one (VIRTIO 1.3, 6.1)
    bool may_log = false;              ///< a dirty log may come at any time
    bool measures_latency = false;     ///< Virtqueue::begin_batch() and end_batch() are called
    QueueMetrics* metrics = nullptr;   ///< outlive the ring; null: it has its own
    const IntakeGate* gate = nullptr;  ///< likewise; null: it is always open
    // As SET_VRING_ADDR names them: see FrontendAddr.
    FrontendAddr descriptor_area{};  ///< split: descriptor table; packed: descriptor ring
    FrontendAddr driver_area{};      ///< split: available ring; packed: driver event suppression
    FrontendAddr device_area{};      ///< split: used ring; packed: device event suppression
};

/// Where a ring stands, as SET_VRING_BASE and GET_VRING_BASE carry it.
/// Split: bits 0-15 the next available index. Packed: bits 0-14 available index, 15 its wrap
/// counter, 16-30 used index, 31 its wrap counter. vhost-user "VRING state description".
struct VringBase {
    uint32_t raw = 0;
};

/// Why a ring cannot be set up.
enum class VirtqueueSetupError : uint8_t {
    kSize,       ///< 0, too large, or not a power of two (split)
    kAlignment,  ///< an area is not aligned as VIRTIO 1.3, 2.7 or 2.8 demand
    kUnmapped,   ///< an area does not lie wholly in one region, or is not translated
    kScattered,  ///< an area's pieces cannot be mapped side by side (IOMMU)
    kBase,       ///< the base has bits or an index that this ring cannot have
    kInflight,   ///< the in-flight log is too small, or cannot be of this ring
};

}  // namespace outrigger
