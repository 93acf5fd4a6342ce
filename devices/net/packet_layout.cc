// SPDX-License-Identifier: Apache-2.0
#include "devices/net/packet_layout.h"

#include <array>
#include <utility>

#include "devices/net/checksum.h"

namespace outrigger::net {
namespace {

constexpr uint16_t kTypeIp4 = 0x0800;
constexpr uint16_t kTypeIp6 = 0x86dd;
constexpr uint16_t kTypeVlan = 0x8100;
constexpr uint16_t kTypeServiceVlan = 0x88a8;
constexpr int kVlanTagsMax = 2;

constexpr size_t kIp4HeaderBytesMin = 20;
constexpr size_t kIp6HeaderBytes = 40;
constexpr size_t kTcpHeaderBytesMin = 20;
constexpr size_t kUdpHeaderBytes = 8;
constexpr int kExtensionHeadersMax = 8;

// RFC 8200, 4.
constexpr uint8_t kHopByHop = 0;
constexpr uint8_t kRouting = 43;
constexpr uint8_t kDestinationOptions = 60;

uint8_t read_u8(std::span<const std::byte> bytes, size_t at) {
    return std::to_integer<uint8_t>(bytes[at]);
}

bool has(std::span<const std::byte> bytes, size_t at, size_t count) {
    return at <= bytes.size() && count <= bytes.size() - at;
}

/// Sets transport_start and protocol. False: there is no such packet.
bool find_ip4(std::span<const std::byte> front, PacketLayout& layout) {
    const size_t at = layout.network_start;
    if (!has(front, at, kIp4HeaderBytesMin) || read_u8(front, at) >> 4 != 4) {
        return false;
    }
    const size_t header_bytes = size_t{4} * (read_u8(front, at) & 0xfU);
    // More fragments, or an offset.
    if (header_bytes < kIp4HeaderBytesMin || (read_be16(front, at + 6) & 0x3fff) != 0) {
        return false;
    }
    layout.network = NetworkKind::kIp4;
    layout.protocol = read_u8(front, at + 9);
    layout.transport_start = at + header_bytes;
    return true;
}

bool find_ip6(std::span<const std::byte> front, PacketLayout& layout) {
    size_t at = layout.network_start;
    if (!has(front, at, kIp6HeaderBytes) || read_u8(front, at) >> 4 != 6) {
        return false;
    }
    uint8_t next = read_u8(front, at + 6);
    at += kIp6HeaderBytes;
    for (int i = 0; i < kExtensionHeadersMax; ++i) {
        if (next != kHopByHop && next != kRouting && next != kDestinationOptions) {
            break;
        }
        if (!has(front, at, 8)) {
            return false;
        }
        next = read_u8(front, at);
        at += size_t{8} * (read_u8(front, at + 1) + 1U);
    }
    layout.network = NetworkKind::kIp6;
    layout.protocol = next;
    layout.transport_start = at;
    return true;
}

}  // namespace

uint16_t read_be16(std::span<const std::byte> bytes, size_t at) {
    return static_cast<uint16_t>(read_u8(bytes, at) << 8 | read_u8(bytes, at + 1));
}

uint32_t read_be32(std::span<const std::byte> bytes, size_t at) {
    return uint32_t{read_be16(bytes, at)} << 16 | read_be16(bytes, at + 2);
}

void write_be16(std::span<std::byte> bytes, size_t at, uint16_t value) {
    bytes[at] = static_cast<std::byte>(value >> 8);
    bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}

void write_be32(std::span<std::byte> bytes, size_t at, uint32_t value) {
    write_be16(bytes, at, static_cast<uint16_t>(value >> 16));
    write_be16(bytes, at + 2, static_cast<uint16_t>(value & 0xffff));
}

std::optional<PacketLayout> find_layout(std::span<const std::byte> front) {
    if (front.size() < kEthernetHeaderBytes) {
        return std::nullopt;
    }
    PacketLayout layout;
    layout.network_start = kEthernetHeaderBytes;
    uint16_t type = read_be16(front, kEthernetHeaderBytes - 2);
    for (int i = 0; i < kVlanTagsMax && (type == kTypeVlan || type == kTypeServiceVlan); ++i) {
        if (!has(front, layout.network_start, kVlanTagBytes)) {
            return std::nullopt;
        }
        type = read_be16(front, layout.network_start + 2);
        layout.network_start += kVlanTagBytes;
    }
    const bool found = (type == kTypeIp4 && find_ip4(front, layout)) ||
                       (type == kTypeIp6 && find_ip6(front, layout));
    if (!found) {
        return std::nullopt;
    }
    const size_t at = layout.transport_start;
    if (layout.protocol == kUdpProtocol && has(front, at, kUdpHeaderBytes)) {
        layout.payload_start = at + kUdpHeaderBytes;
        return layout;
    }
    if (layout.protocol != kTcpProtocol || !has(front, at, kTcpHeaderBytesMin)) {
        return std::nullopt;
    }
    const size_t header_bytes = size_t{4} * (read_u8(front, at + 12) >> 4U);
    if (header_bytes < kTcpHeaderBytesMin || !has(front, at, header_bytes)) {
        return std::nullopt;
    }
    layout.payload_start = at + header_bytes;
    return layout;
}

size_t header_bytes_of(const Frame& frame) {
    if (frame.offload.segmentation == Segmentation::kNone) {
        return 0;
    }
    std::array<std::byte, kHeadersBytesMax> front;
    const auto layout = find_layout(std::span(front).first(copy_front(frame, front)));
    return layout ? layout->payload_start : 0;
}

uint64_t pseudo_header_sum(std::span<const std::byte> front,
                           const PacketLayout& layout,
                           size_t transport_bytes) {
    const bool is_ip4 = layout.network == NetworkKind::kIp4;
    const size_t addresses_at = layout.network_start + (is_ip4 ? 12 : 8);
    const size_t addresses_bytes = is_ip4 ? 8 : 32;
    std::array<std::byte, 8> rest{};
    write_be32(rest, 0, static_cast<uint32_t>(transport_bytes));
    rest[7] = static_cast<std::byte>(layout.protocol);
    return add_to_sum(add_to_sum(0, front.subspan(addresses_at, addresses_bytes)), rest);
}

uint32_t flow_hash(std::span<const std::byte> front, const PacketLayout& layout) {
    const bool is_ip4 = layout.network == NetworkKind::kIp4;
    const size_t address_bytes = is_ip4 ? 4 : 16;
    const size_t source_at = layout.network_start + (is_ip4 ? 12 : 8);
    // Sums do not depend on the direction.
    uint64_t hash = uint64_t{read_be16(front, layout.transport_start)} +
                    read_be16(front, layout.transport_start + 2);
    for (size_t i = 0; i < 2 * address_bytes; i += 4) {
        hash += uint64_t{read_be32(front, source_at + i)} << 8;
    }
    hash = (hash + layout.protocol) * 0x9e37'79b9'7f4a'7c15ULL;
    return static_cast<uint32_t>(hash >> 32);
}

}  // namespace outrigger::net
