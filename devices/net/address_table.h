// SPDX-License-Identifier: Apache-2.0
/// Which station is at which port of a switch, as frames have told. IEEE 802.1Q, 8.8.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace outrigger::net {

/// The six bytes of an Ethernet address as a number.
using StationAddress = uint64_t;

inline constexpr size_t kStationBytes = 6;
inline constexpr StationAddress kEverybody = 0xffff'ffff'ffff;

/// `at`: of the first of its bytes, which are there.
[[nodiscard]] StationAddress read_station(std::span<const std::byte> frame, size_t at);

/// The other way.
void write_station(StationAddress address, std::span<std::byte> frame, size_t at);

/// A group of stations, or everybody.
[[nodiscard]] constexpr bool is_group(StationAddress address) {
    constexpr StationAddress kGroupBit = StationAddress{1} << 40;
    return (address & kGroupBit) != 0;
}

/// Of one link alone: switches pass these on to nobody (01:80:c2:00:00:0x).
[[nodiscard]] constexpr bool is_of_the_link(StationAddress address) {
    return address >> 4 == 0x180'c200'000;
}

/// Bounded by what each port may have. Not thread-safe.
class AddressTable final {
  public:
    using Clock = std::chrono::steady_clock;

    /// A port that has as many addresses as it may has old ones looked for so often.
    static constexpr Clock::duration kLookPause = std::chrono::seconds(1);

    struct Limits {
        size_t addresses_max = 64;  ///< of one port
        Clock::duration age_max = std::chrono::minutes(5);
    };

    explicit AddressTable(const Limits& limits) : limits_(limits) {}

    /// A frame of that station came in at `port`. False: it is not noted, because the port has as
    /// many as it may.
    [[nodiscard]] bool learn(StationAddress address, uint32_t port, Clock::time_point now);

    /// Nothing: nobody knows, or it was too long ago.
    [[nodiscard]] std::optional<uint32_t> find(StationAddress address, Clock::time_point now) const;

    /// Of one port, in place of what the limits say, until it is forgotten.
    void set_addresses_max(uint32_t port, size_t addresses_max);

    /// The port's stations have gone. Which they were.
    std::vector<StationAddress> forget_port(uint32_t port);

    /// Of the port's stations all have gone but these.
    void forget_port_but(uint32_t port, std::span<const StationAddress> kept);

    [[nodiscard]] size_t size() const { return entries_.size(); }

  private:
    struct Entry {
        uint32_t port = 0;
        Clock::time_point seen{};
    };

    [[nodiscard]] bool is_old(const Entry& entry, Clock::time_point now) const {
        return now - entry.seen > limits_.age_max;
    }

    struct PortState {
        size_t addresses = 0;
        size_t addresses_max = 0;
        std::optional<Clock::time_point> looked{};  ///< for old ones
    };

    [[nodiscard]] PortState& state_of(uint32_t port) {
        return ports_.try_emplace(port, PortState{.addresses_max = limits_.addresses_max})
            .first->second;
    }

    void drop_old(uint32_t port, PortState& state, Clock::time_point now);

    const Limits limits_;
    std::unordered_map<StationAddress, Entry> entries_;
    std::unordered_map<uint32_t, PortState> ports_;
};

}  // namespace outrigger::net
