// SPDX-License-Identifier: Apache-2.0
/// What a front end must know of a kind of device, and no message tells it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "vhost-user-backend/base/feature_set.h"

namespace outrigger::vmm {

/// Bits of VIRTIO 1.3, 6 that the front end carries to the driver and back.
inline constexpr unsigned kIndirectDescBit = 28;
inline constexpr unsigned kEventIdxBit = 29;
inline constexpr unsigned kVersion1Bit = 32;
inline constexpr unsigned kRingPackedBit = 34;
inline constexpr unsigned kInOrderBit = 35;
inline constexpr unsigned kOrderPlatformBit = 36;

/// Whether the configuration space comes from the back end.
enum class ConfigRule : uint8_t {
    kNone,      ///< the device has none
    kRequired,  ///< a device without CONFIG cannot be used
    kEither,    ///< without CONFIG the machine's options must say what is in it
    kOptional,  ///< without CONFIG they may, or there is none
};

struct DeviceKind {
    std::string_view name;  ///< as on the command line: "blk"
    uint16_t virtio_id;     ///< VIRTIO 1.3, 5
    /// Where MQ was not negotiated.
    uint16_t queue_count;
    /// With MQ: the least that the driver needs, and the most that is passed on. Equal where the
    /// number is the kind's and not the back end's.
    uint16_t queue_count_min;
    uint16_t queue_count_max;
    uint16_t config_bytes;  ///< of the largest layout known, at most 256
    ConfigRule config;
    /// Bits below 24 and from 50 on that may be offered to the driver.
    FeatureSet features;
    /// Those of them that speak of the configuration: a device without one has none of them.
    FeatureSet config_features{};
    /// Those of them that need a control queue which the back end serves.
    FeatureSet control_features{};
    std::string_view config_option{};  ///< what says the configuration: "tag="
};

/// blk, net, vsock, fs, console, rng.
[[nodiscard]] std::span<const DeviceKind> device_kinds();

[[nodiscard]] const DeviceKind* find_device_kind(std::string_view name);

/// The kind with this number, or one that says nothing of what the device may be: every feature,
/// as many queues as the back end has, 256 bytes of configuration if it gives them.
[[nodiscard]] DeviceKind device_kind_of(uint16_t virtio_id);

/// What of a back end's features the driver may see. `packed_survives`: the place of a packed ring
/// is known after a loss, because the back end keeps an in-flight buffer.
[[nodiscard]] FeatureSet offered_to_driver(const DeviceKind& kind,
                                           FeatureSet of_backend,
                                           bool packed_survives);

/// The number of queues from what the back end says with MQ (nothing: not negotiated); nothing when
/// it is no number for this kind.
[[nodiscard]] std::optional<uint16_t> queue_count_of(const DeviceKind& kind,
                                                     std::optional<uint64_t> with_mq);

}  // namespace outrigger::vmm
