// SPDX-License-Identifier: Apache-2.0
/// Makes IPv4 packets whole before libslirp sees them, which keeps any number of fragments, for
/// half a minute each, and looks for them one by one.
#pragma once

#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace outrigger::net {

/// Thread-bound. Has at most kPacketsMax times 64 KiB.
class Ip4Reassembler final {
  public:
    using Clock = std::chrono::steady_clock;

    /// Packets of which some is there. The oldest gives way to a new one.
    static constexpr size_t kPacketsMax = 64;

    /// RFC 1122, 3.3.2: a fixed time for all of a packet to come.
    static constexpr std::chrono::seconds kLifetime{30};

    struct Taken {
        /// The frame with all of the packet, when nothing lacks any more; empty before. Valid until
        /// the next fragment, and to be changed.
        std::span<std::byte> whole{};
        /// It fits nothing: its header is wrong, or it has some of what is there already, as only
        /// an attack does (RFC 5722), and what was there is forgotten.
        bool refused = false;
    };

    /// Is that frame, without VLAN tags, a fragment?
    [[nodiscard]] static bool is_fragment(std::span<const std::byte> frame);

    /// Of a frame for which is_fragment() is true.
    [[nodiscard]] Taken add(std::span<const std::byte> frame, Clock::time_point now);

  private:
    static constexpr size_t kUnitBytes = 8;  // RFC 791, 3.1: of offsets
    static constexpr size_t kIpBytesMax = 0xffff;

    struct Key {
        uint64_t addresses = 0;
        uint16_t identity = 0;
        std::byte protocol{};

        bool operator==(const Key&) const = default;
    };

    struct Packet {
        Key key;
        Clock::time_point begun;
        std::vector<std::byte> head{};  ///< of the first fragment, with its Ethernet header
        std::vector<std::byte> payload{};
        std::bitset<kIpBytesMax / kUnitBytes + 1> there{};
        size_t bytes_there = 0;
        std::optional<size_t> end{};  ///< of the payload, once the last fragment has come
    };

    /// What is behind its header, and where it belongs.
    struct Part {
        std::span<const std::byte> bytes;
        size_t offset;
        bool is_last;
    };

    void forget_old(Clock::time_point now);
    [[nodiscard]] Packet& find(const Key& key, Clock::time_point now);
    /// False: it contradicts what is there.
    [[nodiscard]] static bool put(Packet& packet, const Part& part);
    [[nodiscard]] Taken finish(Packet& packet);
    void forget(const Packet& packet);

    std::vector<Packet> packets_;  // the oldest first
    std::vector<std::byte> whole_;
};

}  // namespace outrigger::net
