// SPDX-License-Identifier: Apache-2.0
/// The stations and addresses that a guest may be, as people write them.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/device.h"

#include "devices/net/sender_guard.h"

namespace outrigger::net {

/// "52:54:00:12:34:56": an address that one station can have.
[[nodiscard]] std::optional<MacAddress> parse_mac(std::string_view text);

/// An error begins with the first text that is none.
[[nodiscard]] Result<std::vector<StationAddress>> parse_stations(
    std::span<const std::string> texts);
[[nodiscard]] Result<std::vector<IpRange>> parse_ip_ranges(std::span<const std::string> texts);

[[nodiscard]] std::string to_text(StationAddress station);
/// Without the length of the prefix where that is all of it.
[[nodiscard]] std::string to_text(const IpRange& range);

}  // namespace outrigger::net
