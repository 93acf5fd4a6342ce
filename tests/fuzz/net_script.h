// SPDX-License-Identifier: Apache-2.0
/// What the targets of the network device and their committed scripts agree on.
#pragma once

#include <cstdint>

#include "devices/net/address_table.h"

namespace outrigger::fuzz {

/// Who may send: 52:54:00:00:00:01.
inline constexpr net::StationAddress kNetStation = 0x5254'0000'0001;

/// Of net-frames: a byte of options, the features (u64), the header before the frame (12 bytes),
/// how many zeroes there are behind the frame (u16), the frame.
inline constexpr uint8_t kNetGuardsAddresses = 1;  ///< 10.0.0.7 and 2001:db8::/64 may send

/// Of net-control: the features (u64), pairs of queues; then commands: length (u16), bytes.
inline constexpr unsigned kNetCommandsMax = 64;

}  // namespace outrigger::fuzz
