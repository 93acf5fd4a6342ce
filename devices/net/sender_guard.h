// SPDX-License-Identifier: Apache-2.0
/// Whether a guest may send a frame: as itself, or as another station.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "devices/net/address_table.h"
#include "devices/net/frame.h"

namespace outrigger::net {

/// Addresses of IPv4 or IPv6 that begin with the same bits.
struct IpRange {
    std::array<std::byte, 16> prefix{};  ///< of IPv4 the first four bytes
    unsigned bits = 0;                   ///< that count
    bool is_ip6 = false;

    /// `address` is of 4 or 16 bytes.
    [[nodiscard]] bool has(std::span<const std::byte> address) const;
};

/// "192.0.2.7", "192.0.2.0/24", "2001:db8::/32". Nothing: it is none of these, or has bits behind
/// its prefix.
[[nodiscard]] std::optional<IpRange> parse_ip_range(std::string_view text);

/// Nothing in a list: it says nothing.
struct SenderRules {
    std::vector<StationAddress> stations{};
    std::vector<IpRange> addresses{};

    [[nodiscard]] bool any() const { return !stations.empty() || !addresses.empty(); }
};

class SenderGuard final {
  public:
    /// What it must see of a frame. One whose headers are longer is not let through.
    static constexpr size_t kFrontBytes = 256;

    explicit SenderGuard(SenderRules rules) : rules_(std::move(rules)) {}

    /// `front`: the first kFrontBytes of a frame, or all of it.
    ///
    /// The Ethernet source is one of the stations. ARP and neighbour discovery speak of no other
    /// station than that source. With addresses, IPv4 and IPv6 come from one of these (or, of IPv6,
    /// from the link-local address that belongs to the source), ARP and neighbour advertisements
    /// speak of none but these, and there are no router advertisements, redirects, or frames of
    /// other protocols. A guest that has no address yet may ask for one.
    ///
    /// `offload` is what others are to do to it: whoever finishes a checksum writes two bytes,
    /// which the guest can choose, where the guest says. That is the field of TCP or UDP, or,
    /// without segments, behind their headers, where nothing is looked at.
    [[nodiscard]] bool allows(std::span<const std::byte> front, const FrameOffload& offload) const;

  private:
    [[nodiscard]] bool allows_sender(std::span<const std::byte> front) const;
    [[nodiscard]] bool allows_arp(std::span<const std::byte> packet, StationAddress source) const;
    [[nodiscard]] bool allows_reverse_arp(std::span<const std::byte> packet,
                                          StationAddress source) const;
    [[nodiscard]] bool allows_ip4(std::span<const std::byte> packet) const;
    [[nodiscard]] bool allows_ip6(std::span<const std::byte> packet, StationAddress source) const;
    [[nodiscard]] bool allows_discovery(std::span<const std::byte> message,
                                        StationAddress source,
                                        bool is_unspecified) const;
    [[nodiscard]] bool is_allowed(std::span<const std::byte> address) const;
    [[nodiscard]] bool is_own_ip6(std::span<const std::byte> address, StationAddress source) const;

    const SenderRules rules_;
};

}  // namespace outrigger::net
