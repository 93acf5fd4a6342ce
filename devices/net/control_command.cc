// SPDX-License-Identifier: Apache-2.0
#include "devices/net/control_command.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "vhost-user-backend/base/little_endian.h"

#include "devices/net/frame.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

/// VIRTIO 1.3, 5.1.6.5.
enum class CommandClass : uint8_t {
    kReceive = 0,
    kStations = 1,
    kVlan = 2,
    kAnnounce = 3,
    kQueuePairs = 4,
    kGuestOffloads = 5,
};

/// The same number in every class: VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_VLAN_ADD, ...
constexpr uint8_t kFirst = 0;
constexpr uint8_t kSecond = 1;

using Bytes = std::span<const std::byte>;
using Parsed = std::optional<ControlCommand>;

/// All of the data, and no more.
template <class T>

requires std::is_trivially_copyable_v<T> std::optional<T> read_whole(Bytes data) {
    if (data.size() != sizeof(T)) {
        return std::nullopt;
    }
    T value;
    std::memcpy(&value, data.data(), sizeof value);
    return value;
}

Parsed parse_receive(uint8_t command, Bytes data, FeatureSet agreed) {
    const auto on = read_whole<uint8_t>(data);
    if (command > static_cast<uint8_t>(ReceiveMode::kNoBroadcast) || !on || *on > 1) {
        return std::nullopt;
    }
    const ReceiveMode mode{command};
    const bool is_extra = mode != ReceiveMode::kPromiscuous && mode != ReceiveMode::kAllMulticast;
    if (!agreed.has(is_extra ? kControlReceiveExtraBit : kControlReceiveBit)) {
        return std::nullopt;
    }
    return SetReceiveMode{.mode = mode, .on = *on == 1};
}

struct Table {
    std::optional<std::vector<StationAddress>> stations{};
    Bytes rest{};
};

std::optional<Table> parse_table(Bytes data) {
    const auto count =
        data.size() < sizeof(Le32) ? std::nullopt : read_whole<Le32>(data.first(sizeof(Le32)));
    if (!count) {
        return std::nullopt;
    }
    data = data.subspan(sizeof(Le32));
    if (count->value() > data.size() / kStationBytes) {
        return std::nullopt;
    }
    Table table{.rest = data.subspan(count->value() * kStationBytes)};
    if (count->value() <= kStationsMax) {
        table.stations.emplace();
        for (size_t i = 0; i < count->value(); ++i) {
            table.stations->push_back(read_station(data, i * kStationBytes));
        }
    }
    return table;
}

Parsed parse_stations(uint8_t command, Bytes data, FeatureSet agreed) {
    if (command == kFirst && agreed.has(kControlReceiveBit)) {
        auto unicast = parse_table(data);
        auto multicast = unicast ? parse_table(unicast->rest) : std::nullopt;
        if (!multicast || !multicast->rest.empty()) {
            return std::nullopt;
        }
        return SetStations{.unicast = std::move(unicast->stations),
                           .multicast = std::move(multicast->stations)};
    }
    if (command == kSecond && agreed.has(kControlStationBit) && data.size() == kStationBytes) {
        const StationAddress station = read_station(data, 0);
        if (!is_group(station) && station != 0) {
            return SetOwnStation{.station = station};
        }
    }
    return std::nullopt;
}

Parsed parse_vlan(uint8_t command, Bytes data, FeatureSet agreed) {
    const auto vlan = read_whole<Le16>(data);
    if (command > kSecond || !agreed.has(kControlVlanBit) || !vlan || vlan->value() >= kVlanCount) {
        return std::nullopt;
    }
    return ChangeVlan{.vlan = vlan->value(), .wanted = command == kFirst};
}

Parsed parse_announce(uint8_t command, Bytes data, FeatureSet agreed) {
    if (command != kFirst || !data.empty() || !agreed.has(kGuestAnnounceBit)) {
        return std::nullopt;
    }
    return AcknowledgeAnnouncement{};
}

Parsed parse_queue_pairs(uint8_t command, Bytes data, const ControlLimits& limits) {
    const auto pairs = read_whole<Le16>(data);
    if (command != kFirst || !limits.agreed.has(kQueuePairsBit) || !pairs || pairs->value() == 0 ||
        pairs->value() > limits.queue_pairs) {
        return std::nullopt;
    }
    return SetQueuePairs{.pairs = pairs->value()};
}

Parsed parse_guest_offloads(uint8_t command, Bytes data, FeatureSet agreed) {
    const auto bits = read_whole<Le64>(data);
    if (command != kFirst || !agreed.has(kControlOffloadsBit) || !bits ||
        !(agreed & switchable_offloads()).contains(FeatureSet(bits->value()))) {
        return std::nullopt;
    }
    return SetGuestOffloads{.wanted = FeatureSet(bits->value())};
}

}  // namespace

FeatureSet switchable_offloads() {
    return FeatureSet::of({kGuestChecksumBit,
                           kGuestTcp4Bit,
                           kGuestTcp6Bit,
                           kGuestEcnBit,
                           kGuestFragmentsBit,
                           kGuestUdp4Bit,
                           kGuestUdp6Bit});
}

std::optional<ControlCommand> parse_control_command(std::span<const std::byte> bytes,
                                                    const ControlLimits& limits) {
    constexpr size_t kHeaderBytes = 2;
    if (bytes.size() < kHeaderBytes ||
        std::to_integer<uint8_t>(bytes[0]) > static_cast<uint8_t>(CommandClass::kGuestOffloads)) {
        return std::nullopt;
    }
    const auto command = std::to_integer<uint8_t>(bytes[1]);
    const Bytes data = bytes.subspan(kHeaderBytes);
    switch (CommandClass{std::to_integer<uint8_t>(bytes[0])}) {
        case CommandClass::kReceive:
            return parse_receive(command, data, limits.agreed);
        case CommandClass::kStations:
            return parse_stations(command, data, limits.agreed);
        case CommandClass::kVlan:
            return parse_vlan(command, data, limits.agreed);
        case CommandClass::kAnnounce:
            return parse_announce(command, data, limits.agreed);
        case CommandClass::kQueuePairs:
            return parse_queue_pairs(command, data, limits);
        case CommandClass::kGuestOffloads:
            return parse_guest_offloads(command, data, limits.agreed);
    }
    return std::nullopt;
}

}  // namespace outrigger::net
