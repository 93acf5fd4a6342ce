// SPDX-License-Identifier: Apache-2.0
/// Lets the guest talk to one server by another address: its packets to the virtual one are sent to
/// the real one, and the answers come from the virtual one.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "devices/net/user_options.h"

namespace outrigger::net {

/// Of one family. Frames are whole; other packets stay as they are. Thread-bound.
class AddressRewriter final {
  public:
    AddressRewriter(const Endpoint& shown, const Endpoint& real);

    void rewrite_from_guest(std::span<std::byte> frame);
    void rewrite_to_guest(std::span<std::byte> frame) const;

  private:
    /// Bytes of an address and a port, as they lie in packets.
    struct Place {
        std::array<std::byte, 16> address{};
        uint16_t port = 0;
    };

    static Place place_of(const Endpoint& endpoint);

    const size_t address_bytes_;
    const Place shown_;
    const Place real_;
    /// Ports of the guest (of TCP behind those of UDP) that talk by the virtual address: it may
    /// also know the real one.
    std::unique_ptr<std::bitset<2 * 65536>> ports_ = std::make_unique<std::bitset<2 * 65536>>();
};

}  // namespace outrigger::net
