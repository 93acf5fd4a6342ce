// SPDX-License-Identifier: Apache-2.0
#include "devices/net/address_table.h"

#include <algorithm>

namespace outrigger::net {

StationAddress read_station(std::span<const std::byte> frame, size_t at) {
    StationAddress address = 0;
    for (const std::byte byte : frame.subspan(at, kStationBytes)) {
        address = address << 8 | std::to_integer<StationAddress>(byte);
    }
    return address;
}

void write_station(StationAddress address, std::span<std::byte> frame, size_t at) {
    for (size_t i = kStationBytes; i > 0; --i, address >>= 8) {
        frame[at + i - 1] = static_cast<std::byte>(address);
    }
}

bool AddressTable::learn(StationAddress address, uint32_t port, Clock::time_point now) {
    const auto found = entries_.find(address);
    if (found != entries_.end() && found->second.port == port) {
        found->second.seen = now;
        return true;
    }
    PortState& state = state_of(port);
    if (state.addresses >= state.addresses_max) {
        drop_old(port, state, now);
    }
    if (state.addresses >= state.addresses_max) {
        return false;
    }
    if (found != entries_.end()) {
        // It has moved. (Nothing of this port's was dropped for it, so `found` is still there.)
        --ports_[found->second.port].addresses;
        found->second = {.port = port, .seen = now};
    } else {
        entries_.emplace(address, Entry{.port = port, .seen = now});
    }
    ++state.addresses;
    return true;
}

void AddressTable::set_addresses_max(uint32_t port, size_t addresses_max) {
    state_of(port).addresses_max = addresses_max;
}

std::optional<uint32_t> AddressTable::find(StationAddress address, Clock::time_point now) const {
    const auto found = entries_.find(address);
    if (found == entries_.end() || is_old(found->second, now)) {
        return std::nullopt;
    }
    return found->second.port;
}

std::vector<StationAddress> AddressTable::forget_port(uint32_t port) {
    std::vector<StationAddress> stations;
    for (const auto& [station, entry] : entries_) {
        if (entry.port == port) {
            stations.push_back(station);
        }
    }
    std::erase_if(entries_, [&](const auto& each) { return each.second.port == port; });
    ports_.erase(port);
    return stations;
}

void AddressTable::forget_port_but(uint32_t port, std::span<const StationAddress> kept) {
    const size_t gone = std::erase_if(entries_, [&](const auto& each) {
        return each.second.port == port && !std::ranges::count(kept, each.first);
    });
    if (gone > 0) {
        ports_[port].addresses -= gone;
    }
}

/// It looks at all there are, so a guest that invents addresses has it done once in a while.
void AddressTable::drop_old(uint32_t port, PortState& state, Clock::time_point now) {
    if (state.looked && now - *state.looked < kLookPause) {
        return;
    }
    state.looked = now;
    state.addresses -= std::erase_if(entries_, [&](const auto& each) {
        return each.second.port == port && is_old(each.second, now);
    });
}

}  // namespace outrigger::net
