// SPDX-License-Identifier: Apache-2.0
/// What a driver has set by the control queue: what it wants to receive, on which rings, and how.
/// Not synchronized.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"

#include "devices/net/address_table.h"
#include "devices/net/control_command.h"

namespace outrigger::net {

/// A driver that sets nothing receives everything, on the first pair.
class GuestSettings final {
  public:
    void apply(const ControlCommand& command);

    /// By the destination and the VLAN of a frame whose first kFilterBytes, as far as there are
    /// that many, are `front`. `own`: the guest's station as far as it is known.
    [[nodiscard]] bool wants(std::span<const std::byte> front,
                             std::optional<StationAddress> own,
                             bool filters_vlans) const;

    /// wants() would say yes to all.
    [[nodiscard]] bool wants_all() const { return has(ReceiveMode::kPromiscuous); }

    /// That the driver set, if it did.
    [[nodiscard]] std::optional<StationAddress> own() const { return own_; }

    [[nodiscard]] uint16_t pairs() const { return pairs_; }

    /// Of what was agreed on, without what the driver has switched off since.
    [[nodiscard]] FeatureSet in_use(FeatureSet agreed) const {
        return offloads_ ? FeatureSet(agreed.bits() & ~switchable_offloads().bits()) |
                               (agreed & *offloads_)
                         : agreed;
    }

    /// As docs/state.md has it; at most kBytesMax.
    [[nodiscard]] std::vector<std::byte> encode() const;
    /// Nothing: it is not what encode() writes.
    [[nodiscard]] static std::optional<GuestSettings> decode(std::span<const std::byte> bytes);

    static constexpr size_t kBytesMax = 16 * 1024;

    friend bool operator==(const GuestSettings&, const GuestSettings&) = default;

  private:
    [[nodiscard]] bool has(ReceiveMode mode) const {
        return (modes_ >> static_cast<unsigned>(mode) & 1U) != 0;
    }

    /// Sorted. Nothing: too many to keep, so that all pass.
    using Stations = std::optional<std::vector<StationAddress>>;

    uint8_t modes_ = 1;  // kPromiscuous, as devices without a filter do it
    std::optional<StationAddress> own_;
    Stations unicast_ = std::vector<StationAddress>();
    Stations multicast_ = std::vector<StationAddress>();
    std::bitset<kVlanCount> vlans_;
    uint16_t pairs_ = 1;
    std::optional<FeatureSet> offloads_;
};

/// The Ethernet header and a VLAN tag.
inline constexpr size_t kFilterBytes = 18;

}  // namespace outrigger::net
