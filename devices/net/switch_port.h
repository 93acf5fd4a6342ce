// SPDX-License-Identifier: Apache-2.0
/// A switch between the devices of one program: each has a port, and ports of one name reach each
/// other. What the sender leaves unfinished stays so; the device behind the other port finishes
/// what its own guest cannot take.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "devices/net/address_table.h"
#include "devices/net/port.h"

namespace outrigger::net {

struct SwitchOptions {
    std::string name{};  ///< of the switch, among those of the program
    AddressTable::Limits addresses{};
    /// Frames of one port to everybody, and to stations that nobody knows, in a second.
    uint32_t flood_max = 10'000;
    /// Of this port in place of `addresses`'; 0: as these say.
    size_t own_addresses_max = 0;
};

/// Thread-bound as every port; those of one switch may be on different threads.
class SwitchPort final : public Port {
  public:
    /// The limits of addresses are those of the switch's first port.
    explicit SwitchPort(const SwitchOptions& options);
    ~SwitchPort() override;

    /// The switch's way out to the host: it is told by on_frames() when another port comes. False:
    /// another port is. Before attach().
    [[nodiscard]] bool become_uplink();

    /// Is anybody else at the switch?
    [[nodiscard]] bool has_others() const;

    [[nodiscard]] Offloads takes() const override;
    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;
    [[nodiscard]] std::optional<Frame> next_frame() override;
    void drop_frame() override;
    void await_frames() override;
    [[nodiscard]] PortState save() const override;
    void load(const PortState& state) override;
    void forget_stations_but(std::span<const StationAddress> kept) override;

  private:
    class Inbox;
    class Switch;

    /// Of one station to another one, as the frames say: their first twelve bytes, in two pieces
    /// that are compared as such.
    struct Stations {
        using Bytes = std::array<std::byte, 2 * kStationBytes>;

        uint64_t front = 0;
        uint32_t rest = 0;

        [[nodiscard]] Bytes bytes() const;

        friend bool operator==(const Stations&, const Stations&) = default;
    };

    [[nodiscard]] static Stations read_stations(const Frame& frame);
    void send_run(std::span<const Frame> frames,
                  const Stations& stations,
                  AddressTable::Clock::time_point now);
    void flood(const Frame& frame, AddressTable::Clock::time_point now);
    [[nodiscard]] bool may_flood(const Frame& frame, AddressTable::Clock::time_point now);

    [[nodiscard]] static std::shared_ptr<Switch> find_switch(const SwitchOptions& options);

    const std::shared_ptr<Switch> switch_;
    const std::shared_ptr<Inbox> inbox_;
    const uint32_t flood_max_;
    const size_t own_addresses_max_;
    const uint32_t number_;
    std::vector<StationAddress> stations_;  // that were at the port before it was attached
    const EventLoop* loop_ = nullptr;       // while it is attached
    bool is_uplink_ = false;
    uint64_t flooded_ = 0;  // since second_
    std::optional<AddressTable::Clock::time_point> second_;
};

}  // namespace outrigger::net
