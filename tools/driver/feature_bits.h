// SPDX-License-Identifier: Apache-2.0
/// The feature bits that rings and transport know. VIRTIO 1.3, 6.
#pragma once

namespace outrigger::driver {

inline constexpr unsigned kIndirectDescBit = 28;
inline constexpr unsigned kEventIdxBit = 29;
inline constexpr unsigned kVersion1Bit = 32;
inline constexpr unsigned kAccessPlatformBit = 33;
inline constexpr unsigned kRingPackedBit = 34;
inline constexpr unsigned kInOrderBit = 35;
inline constexpr unsigned kNotificationDataBit = 38;
inline constexpr unsigned kRingResetBit = 40;

}  // namespace outrigger::driver
