// SPDX-License-Identifier: Apache-2.0
/// Where the headers of a frame lie: Ethernet with VLAN tags, IPv4 with options, IPv6 with
/// extension headers, TCP, UDP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "devices/net/frame.h"

namespace outrigger::net {

inline constexpr uint8_t kTcpProtocol = 6;
inline constexpr uint8_t kUdpProtocol = 17;

/// Where the checksum lies in the header of each.
inline constexpr size_t kTcpChecksumOffset = 16;
inline constexpr size_t kUdpChecksumOffset = 6;

/// Headers of a packet that is worth looking at.
inline constexpr size_t kHeadersBytesMax = 256;

enum class NetworkKind : uint8_t { kIp4, kIp6 };

struct PacketLayout {
    NetworkKind network = NetworkKind::kIp4;
    uint8_t protocol = 0;      ///< kTcpProtocol or kUdpProtocol
    size_t network_start = 0;  ///< from the start of the frame, as all that follows
    size_t transport_start = 0;
    size_t payload_start = 0;  ///< behind the header of TCP or UDP
};

/// Of TCP and UDP, and no fragments; nothing for other packets, and for headers that `front` does
/// not have in full. `front` begins with the Ethernet header. Lengths in the headers are only
/// looked at where they say how long a header is.
[[nodiscard]] std::optional<PacketLayout> find_layout(std::span<const std::byte> front);

/// Bytes of all headers of a frame that is to be cut; 0 for one that is not, and where they are not
/// known. A guest may write the frame meanwhile.
[[nodiscard]] size_t header_bytes_of(const Frame& frame);

/// The sum of the pseudo header before a segment of `transport_bytes`. RFC 9293, 3.1; RFC 8200,
/// 8.1. `front` has all headers of `layout`.
[[nodiscard]] uint64_t pseudo_header_sum(std::span<const std::byte> front,
                                         const PacketLayout& layout,
                                         size_t transport_bytes);

/// The same for both directions of a flow of TCP or UDP, and spread over all values.
[[nodiscard]] uint32_t flow_hash(std::span<const std::byte> front, const PacketLayout& layout);

/// In network byte order.
[[nodiscard]] uint16_t read_be16(std::span<const std::byte> bytes, size_t at);
[[nodiscard]] uint32_t read_be32(std::span<const std::byte> bytes, size_t at);
void write_be16(std::span<std::byte> bytes, size_t at, uint16_t value);
void write_be32(std::span<std::byte> bytes, size_t at, uint32_t value);

}  // namespace outrigger::net
