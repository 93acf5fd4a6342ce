// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_state.h"

#include <cstring>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::net {
namespace {

/// Version 1 of the section "configuration".
struct ConfigurationBytes {
    MacAddress mac{};
    Le16 mtu = 0;
    Le16 queue_pairs = 0;
};

static_assert(sizeof(ConfigurationBytes) == 10);

Error wrong_size() {
    return {.message = "a section of a network device is missing, or not what it should be"};
}

}  // namespace

std::vector<StateSection> write_net_state(const NetState& state) {
    const ConfigurationBytes shown{
        .mac = state.shown.mac, .mtu = state.shown.mtu, .queue_pairs = state.shown.queue_pairs};
    std::vector<StateSection> sections{
        make_section(kConfigurationSection, std::as_bytes(std::span(&shown, 1))),
        make_section(kSettingsSection, state.settings.encode())};
    if (!state.port.stations.empty()) {
        std::vector<std::byte> bytes(state.port.stations.size() * kStationBytes);
        for (size_t i = 0; i < state.port.stations.size(); ++i) {
            write_station(state.port.stations[i], bytes, i * kStationBytes);
        }
        sections.push_back(make_section(kStationsSection, bytes));
    }
    if (!state.port.leases.empty()) {
        sections.push_back(make_section(kLeasesSection, state.port.leases));
    }
    return sections;
}

Result<NetState> read_net_state(std::span<const StateSection> sections) {
    const StateSection* const shown = find_section(sections, kConfigurationSection.id);
    const StateSection* const settings = find_section(sections, kSettingsSection.id);
    const StateSection* const stations = find_section(sections, kStationsSection.id);
    const StateSection* const leases = find_section(sections, kLeasesSection.id);
    ConfigurationBytes known;
    if (shown == nullptr || shown->bytes.size() != sizeof known || settings == nullptr) {
        return failure(wrong_size());
    }
    std::memcpy(&known, shown->bytes.data(), sizeof known);
    auto decoded = GuestSettings::decode(settings->bytes);
    if (!decoded || decoded->pairs() > known.queue_pairs.value()) {
        return failure(wrong_size());
    }
    NetState state{.shown = {.mac = known.mac, .mtu = known.mtu, .queue_pairs = known.queue_pairs},
                   .settings = *std::move(decoded)};
    if (stations != nullptr) {
        const size_t count = stations->bytes.size() / kStationBytes;
        if (stations->bytes.size() % kStationBytes != 0 || count > kStateStationsMax) {
            return failure(wrong_size());
        }
        for (size_t i = 0; i < count; ++i) {
            state.port.stations.push_back(read_station(stations->bytes, i * kStationBytes));
        }
    }
    if (leases != nullptr) {
        state.port.leases = leases->bytes;
    }
    return state;
}

}  // namespace outrigger::net
