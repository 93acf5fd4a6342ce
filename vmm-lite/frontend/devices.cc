// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "vhost-user-backend/wire/messages.h"

#include "vmm-lite/frontend/device_kinds.h"

namespace outrigger::vmm {
namespace {

/// Kick and call messages have 8 bits for a ring's number.
constexpr uint16_t kQueuesMax = 256;

/// What needs the control queue of a network device, which is the back end's or nobody's: no
/// message says what the driver asks there. VIRTIO 1.3, 5.1.3.
constexpr FeatureSet kNetControlFeatures = FeatureSet::of({
    2,   // CTRL_GUEST_OFFLOADS
    17,  // CTRL_VQ
    18,  // CTRL_RX
    19,  // CTRL_VLAN
    20,  // CTRL_RX_EXTRA
    21,  // GUEST_ANNOUNCE
    22,  // MQ
    23,  // CTRL_MAC_ADDR
});

constexpr FeatureSet kNetFeatures = FeatureSet::of({
    0,   // CSUM
    1,   // GUEST_CSUM
    3,   // MTU
    5,   // MAC
    7,   // GUEST_TSO4
    8,   // GUEST_TSO6
    9,   // GUEST_ECN
    10,  // GUEST_UFO
    11,  // HOST_TSO4
    12,  // HOST_TSO6
    13,  // HOST_ECN
    14,  // HOST_UFO
    15,  // MRG_RXBUF
    16,  // STATUS
    54,  // GUEST_USO4
    55,  // GUEST_USO6
    56,  // HOST_USO
    59,  // GUEST_HDRLEN
    63,  // SPEED_DUPLEX
});

/// SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD,
/// WRITE_ZEROES, LIFETIME, SECURE_ERASE, ZONED. VIRTIO 1.3, 5.2.3.
constexpr FeatureSet kBlkFeatures =
    FeatureSet::of({1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17});

constexpr std::array<DeviceKind, 6> kKinds = {{
    {.name = "blk",
     .virtio_id = 2,
     .queue_count = 1,
     .queue_count_min = 1,
     .queue_count_max = kQueuesMax,
     .config_bytes = 96,
     .config = ConfigRule::kRequired,
     .features = kBlkFeatures},
    {.name = "net",
     .virtio_id = 1,
     .queue_count = 2,
     .queue_count_min = 1,  // some count in pairs
     .queue_count_max = kQueuesMax,
     .config_bytes = 24,
     .config = ConfigRule::kOptional,
     .features = kNetFeatures | kNetControlFeatures,
     // MTU, MAC, STATUS, GUEST_ANNOUNCE, MQ, SPEED_DUPLEX
     .config_features = FeatureSet::of({3, 5, 16, 21, 22, 63}),
     .control_features = kNetControlFeatures,
     .config_option = "mac="},
    {.name = "vsock",
     .virtio_id = 19,
     .queue_count = 3,
     .queue_count_min = 3,
     .queue_count_max = 3,
     .config_bytes = 8,
     .config = ConfigRule::kEither,
     .features = FeatureSet::of({0, 1, 2}),  // STREAM, SEQPACKET, NO_IMPLIED_STREAM
     .config_option = "cid="},
    {.name = "fs",
     .virtio_id = 26,
     .queue_count = 2,
     .queue_count_min = 2,
     .queue_count_max = kQueuesMax,
     .config_bytes = 44,
     .config = ConfigRule::kEither,
     .features = FeatureSet::of({0}),  // NOTIFICATION
     .config_features = FeatureSet::of({0}),
     .config_option = "tag="},
    {.name = "console",
     .virtio_id = 3,
     .queue_count = 2,
     .queue_count_min = 2,
     .queue_count_max = 64,
     .config_bytes = 12,
     .config = ConfigRule::kOptional,
     .features = FeatureSet::of({0, 1, 2}),  // SIZE, MULTIPORT, EMERG_WRITE
     .config_features = FeatureSet::of({0, 1, 2})},
    {.name = "rng",
     .virtio_id = 4,
     .queue_count = 1,
     .queue_count_min = 1,
     .queue_count_max = 1,
     .config_bytes = 0,
     .config = ConfigRule::kNone,
     .features = FeatureSet()},
}};

constexpr FeatureSet kTransportFeatures = FeatureSet::of(
    {kIndirectDescBit, kEventIdxBit, kVersion1Bit, kRingPackedBit, kInOrderBit, kOrderPlatformBit});

/// VIRTIO 1.3, 2.2: 0 to 23 and 50 to 127 belong to the kind of device.
constexpr FeatureSet kDeviceBits =
    FeatureSet(((uint64_t{1} << 24) - 1) | ~((uint64_t{1} << 50) - 1));

}  // namespace

std::span<const DeviceKind> device_kinds() {
    return kKinds;
}

const DeviceKind* find_device_kind(std::string_view name) {
    const auto found = std::ranges::find(kKinds, name, &DeviceKind::name);
    return found != kKinds.end() ? &*found : nullptr;
}

DeviceKind device_kind_of(uint16_t virtio_id) {
    const auto found = std::ranges::find(kKinds, virtio_id, &DeviceKind::virtio_id);
    if (found != kKinds.end()) {
        return *found;
    }
    return {.name = "device",
            .virtio_id = virtio_id,
            .queue_count = 1,
            .queue_count_min = 1,
            .queue_count_max = kQueuesMax,
            .config_bytes = wire::kConfigBytesMax,
            .config = ConfigRule::kOptional,
            .features = kDeviceBits};
}

FeatureSet offered_to_driver(const DeviceKind& kind, FeatureSet of_backend, bool packed_survives) {
    const FeatureSet carried =
        packed_survives ? kTransportFeatures : kTransportFeatures.without(kRingPackedBit);
    return of_backend & ((kind.features & kDeviceBits) | carried);
}

std::optional<uint16_t> queue_count_of(const DeviceKind& kind, std::optional<uint64_t> with_mq) {
    // None, and more than messages can name, are no numbers of queues.
    if (with_mq && (*with_mq == 0 || *with_mq > kQueuesMax)) {
        return std::nullopt;
    }
    if (!with_mq || kind.queue_count_min == kind.queue_count_max) {
        return kind.queue_count;
    }
    if (*with_mq < kind.queue_count_min) {
        return std::nullopt;
    }
    return static_cast<uint16_t>(std::min<uint64_t>(*with_mq, kind.queue_count_max));
}

}  // namespace outrigger::vmm
