// SPDX-License-Identifier: Apache-2.0
#include "devices/net/guest_settings.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/little_endian.h"

#include "devices/net/frame.h"
#include "devices/net/packet_layout.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

constexpr uint16_t kTypeVlan = 0x8100;
constexpr size_t kTypeAt = 12;
constexpr uint16_t kVlanMask = 0xfff;

constexpr size_t kVlanBytes = kVlanCount / 8;
constexpr uint8_t kModesMask = 0x3f;

/// How encode() begins; what follows are the stations of both tables, and a bit for each VLAN.
struct SettingsBytes {
    uint8_t modes = 0;
    uint8_t flags = 0;
    Le16 pairs = 0;
    Le16 unicast_count = 0;
    Le16 multicast_count = 0;
    Le64 offloads = 0;
    std::array<std::byte, kStationBytes> own{};
    Le16 reserved = 0;
};

static_assert(sizeof(SettingsBytes) == 24);
static_assert(sizeof(SettingsBytes) + 2 * kStationsMax * kStationBytes + kVlanBytes <=
              GuestSettings::kBytesMax);

constexpr uint8_t kHasOwn = 1;
constexpr uint8_t kHasOffloads = 2;
constexpr uint8_t kAnyUnicast = 4;
constexpr uint8_t kAnyMulticast = 8;
constexpr uint8_t kFlagsMask = 15;

template <class... Handlers>
struct Overloaded : Handlers... {
    using Handlers::operator()...;
};

std::optional<std::vector<StationAddress>> sorted(
    std::optional<std::vector<StationAddress>> stations) {
    if (stations) {
        std::ranges::sort(*stations);
    }
    return stations;
}

}  // namespace

void GuestSettings::apply(const ControlCommand& command) {
    std::visit(Overloaded{
                   [this](const SetReceiveMode& set) {
                       const auto bit = static_cast<uint8_t>(1U << static_cast<unsigned>(set.mode));
                       modes_ = static_cast<uint8_t>(set.on ? modes_ | bit : modes_ & ~bit);
                   },
                   [this](const SetStations& set) {
                       unicast_ = sorted(set.unicast);
                       multicast_ = sorted(set.multicast);
                   },
                   [this](const SetOwnStation& set) { own_ = set.station; },
                   [this](const ChangeVlan& change) { vlans_[change.vlan] = change.wanted; },
                   [](const AcknowledgeAnnouncement&) {},
                   [this](const SetQueuePairs& set) { pairs_ = set.pairs; },
                   [this](const SetGuestOffloads& set) { offloads_ = set.wanted; },
               },
               command);
}

bool GuestSettings::wants(std::span<const std::byte> front,
                          std::optional<StationAddress> own,
                          bool filters_vlans) const {
    if (wants_all() || front.size() < kEthernetHeaderBytes) {
        return true;
    }
    if (filters_vlans && front.size() >= kFilterBytes && read_be16(front, kTypeAt) == kTypeVlan &&
        !vlans_[read_be16(front, kTypeAt + sizeof(uint16_t)) & kVlanMask]) {
        return false;
    }
    const StationAddress to = read_station(front, 0);
    if (to == kEverybody) {
        return !has(ReceiveMode::kNoBroadcast);
    }
    const auto is_in = [to](const Stations& table) {
        return !table || std::ranges::binary_search(*table, to);
    };
    if (is_group(to)) {
        return !has(ReceiveMode::kNoMulticast) &&
               (has(ReceiveMode::kAllMulticast) || is_in(multicast_));
    }
    return !has(ReceiveMode::kNoUnicast) &&
           (has(ReceiveMode::kAllUnicast) || !own || to == *own || is_in(unicast_));
}

std::vector<std::byte> GuestSettings::encode() const {
    SettingsBytes head;
    head.modes = modes_;
    head.flags =
        static_cast<uint8_t>((own_ ? kHasOwn : 0) | (offloads_ ? kHasOffloads : 0) |
                             (unicast_ ? 0 : kAnyUnicast) | (multicast_ ? 0 : kAnyMulticast));
    head.pairs = pairs_;
    head.unicast_count = static_cast<uint16_t>(unicast_ ? unicast_->size() : 0);
    head.multicast_count = static_cast<uint16_t>(multicast_ ? multicast_->size() : 0);
    head.offloads = offloads_.value_or(FeatureSet()).bits();
    write_station(own_.value_or(0), head.own, 0);
    const auto head_bytes = std::as_bytes(std::span(&head, 1));
    std::vector<std::byte> bytes(head_bytes.begin(), head_bytes.end());
    for (const Stations& table : {unicast_, multicast_}) {
        for (const StationAddress station : table.value_or(std::vector<StationAddress>())) {
            bytes.resize(bytes.size() + kStationBytes);
            write_station(station, bytes, bytes.size() - kStationBytes);
        }
    }
    const size_t vlans_at = bytes.size();
    bytes.resize(vlans_at + kVlanBytes);
    for (size_t vlan = 0; vlan < kVlanCount; ++vlan) {
        if (vlans_[vlan]) {
            bytes[vlans_at + vlan / 8] |= std::byte{1} << (vlan % 8);
        }
    }
    return bytes;
}

std::optional<GuestSettings> GuestSettings::decode(std::span<const std::byte> bytes) {
    SettingsBytes head;
    if (bytes.size() < sizeof head) {
        return std::nullopt;
    }
    std::memcpy(&head, bytes.data(), sizeof head);
    const size_t unicast_count = head.unicast_count.value();
    const size_t multicast_count = head.multicast_count.value();
    const FeatureSet offloads(head.offloads.value());
    const StationAddress own = read_station(head.own, 0);
    const bool has_own = (head.flags & kHasOwn) != 0;
    const bool is_sound =
        (head.modes & ~kModesMask) == 0 && (head.flags & ~kFlagsMask) == 0 &&
        head.pairs.value() > 0 && head.reserved.value() == 0 && unicast_count <= kStationsMax &&
        multicast_count <= kStationsMax && switchable_offloads().contains(offloads) &&
        (has_own ? own != 0 && !is_group(own) : own == 0) &&
        bytes.size() ==
            sizeof head + (unicast_count + multicast_count) * kStationBytes + kVlanBytes;
    if (!is_sound) {
        return std::nullopt;
    }
    GuestSettings settings;
    settings.modes_ = head.modes;
    settings.pairs_ = head.pairs;
    if (has_own) {
        settings.own_ = own;
    }
    if ((head.flags & kHasOffloads) != 0) {
        settings.offloads_ = offloads;
    }
    auto rest = bytes.subspan(sizeof head);
    const auto take_table = [&](size_t count, bool is_any) -> Stations {
        std::vector<StationAddress> table;
        for (; count > 0; --count) {
            table.push_back(read_station(rest, 0));
            rest = rest.subspan(kStationBytes);
        }
        return is_any ? std::nullopt : sorted(std::move(table));
    };
    settings.unicast_ = take_table(unicast_count, (head.flags & kAnyUnicast) != 0);
    settings.multicast_ = take_table(multicast_count, (head.flags & kAnyMulticast) != 0);
    for (size_t vlan = 0; vlan < kVlanCount; ++vlan) {
        settings.vlans_[vlan] = (rest[vlan / 8] & (std::byte{1} << (vlan % 8))) != std::byte{0};
    }
    return settings;
}

}  // namespace outrigger::net
