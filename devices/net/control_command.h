// SPDX-License-Identifier: Apache-2.0
/// What a driver asks for on the control queue. VIRTIO 1.3, 5.1.6.5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"

#include "devices/net/address_table.h"

namespace outrigger::net {

inline constexpr uint16_t kVlanCount = 4096;

/// Of a table that is kept; of a longer one all that it is for passes.
inline constexpr size_t kStationsMax = 1024;

/// No command is longer: two tables of more stations than any switch knows.
inline constexpr size_t kControlBytesMax = 128 * 1024;

/// In the order of their numbers on the wire.
enum class ReceiveMode : uint8_t {
    kPromiscuous,
    kAllMulticast,
    kAllUnicast,
    kNoMulticast,
    kNoUnicast,
    kNoBroadcast,
};

struct SetReceiveMode {
    ReceiveMode mode = ReceiveMode::kPromiscuous;
    bool on = false;
};

/// Stations whose frames the driver wants besides its own. Nothing: more than kStationsMax.
struct SetStations {
    std::optional<std::vector<StationAddress>> unicast{};
    std::optional<std::vector<StationAddress>> multicast{};
};

struct SetOwnStation {
    StationAddress station = 0;
};

struct ChangeVlan {
    uint16_t vlan = 0;  ///< below kVlanCount
    bool wanted = false;
};

struct AcknowledgeAnnouncement {};

struct SetQueuePairs {
    uint16_t pairs = 1;
};

/// The bits of the features that the driver wants of those that it agreed on.
struct SetGuestOffloads {
    FeatureSet wanted{};
};

using ControlCommand = std::variant<SetReceiveMode,
                                    SetStations,
                                    SetOwnStation,
                                    ChangeVlan,
                                    AcknowledgeAnnouncement,
                                    SetQueuePairs,
                                    SetGuestOffloads>;

/// What the driver agreed on, and the device has.
struct ControlLimits {
    FeatureSet agreed{};
    uint16_t queue_pairs = 1;
};

/// The features whose bits a driver can switch off by SetGuestOffloads.
[[nodiscard]] FeatureSet switchable_offloads();

/// Nothing for what is no command, is cut short or too long, belongs to a feature that was not
/// agreed on, or asks for what there is not: the driver is told by VIRTIO_NET_ERR. `bytes` is a
/// copy.
[[nodiscard]] std::optional<ControlCommand> parse_control_command(std::span<const std::byte> bytes,
                                                                  const ControlLimits& limits);

}  // namespace outrigger::net
