// SPDX-License-Identifier: Apache-2.0
/// The program around the network device: its options, and what its sandbox allows.
#pragma once

#include <optional>
#include <string_view>

#include "vhost-user-backend/daemon/device_program.h"

namespace outrigger::net {

/// "52:54:00:12:34:56": an address that one station can have.
[[nodiscard]] std::optional<MacAddress> parse_mac(std::string_view text);

extern const DeviceProgram kNetProgram;

}  // namespace outrigger::net
