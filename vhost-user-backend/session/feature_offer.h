// SPDX-License-Identifier: Apache-2.0
/// Which feature bits the framework answers for. What is not finished is not offered: QEMU takes
/// every bit that it knows by number, whether or not it implements the rest of it.
#pragma once

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/device.h"

namespace outrigger {

/// Ring and transport bits. VIRTIO 1.3, 6.
inline constexpr unsigned kFeatureIndirectDesc = 28;
inline constexpr unsigned kFeatureEventIdx = 29;
inline constexpr unsigned kFeatureVersion1 = 32;
inline constexpr unsigned kFeatureAccessPlatform = 33;
inline constexpr unsigned kFeatureRingPacked = 34;
inline constexpr unsigned kFeatureInOrder = 35;
/// A kick carries data. Through an eventfd or a pipe it means nothing: what counts is that one
/// came.
inline constexpr unsigned kFeatureNotificationData = 38;
inline constexpr unsigned kFeatureRingReset = 40;

/// The bits of VIRTIO 1.3, 2.2 that belong to the device type: 0 to 23 and 50 to 63.
inline constexpr FeatureSet kDeviceFeatureBits{0x00ff'ffffULL | ~((1ULL << 50) - 1)};

/// GET_FEATURES: the device's bits and the framework's.
[[nodiscard]] FeatureSet offered_virtio_features(const Device& device);

/// GET_PROTOCOL_FEATURES: what belongs to a configuration space or to an ability only for devices
/// that have it.
[[nodiscard]] FeatureSet offered_protocol_features(const DeviceIdentity& identity,
                                                   const DeviceAbilities& abilities);

}  // namespace outrigger
