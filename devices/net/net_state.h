// SPDX-License-Identifier: Apache-2.0
/// What of a network device follows its guest to another process; docs/state.md describes the
/// bytes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/state/section.h"

#include "devices/net/guest_settings.h"
#include "devices/net/port.h"

namespace outrigger::net {

/// What the driver may have read, and never changes under it.
struct ShownConfig {
    MacAddress mac{};  ///< zeroes: none was shown
    uint16_t mtu = 0;
    uint16_t queue_pairs = 1;

    friend bool operator==(const ShownConfig&, const ShownConfig&) = default;
};

struct NetState {
    ShownConfig shown{};
    GuestSettings settings{};
    PortState port{};
};

inline constexpr StateSectionKind kConfigurationSection{
    .id = 1, .name = "configuration", .version = 1};
inline constexpr StateSectionKind kSettingsSection{.id = 2, .name = "settings", .version = 1};
inline constexpr StateSectionKind kStationsSection{
    .id = 3, .name = "stations", .version = 1, .critical = false};
inline constexpr StateSectionKind kLeasesSection{
    .id = 4, .name = "leases", .version = 1, .critical = false};
inline constexpr std::array kNetSections{
    kConfigurationSection, kSettingsSection, kStationsSection, kLeasesSection};

/// More than the options allow at a port.
inline constexpr size_t kStateStationsMax = 65'536;

[[nodiscard]] std::vector<StateSection> write_net_state(const NetState& state);

[[nodiscard]] Result<NetState> read_net_state(std::span<const StateSection> sections);

}  // namespace outrigger::net
