// SPDX-License-Identifier: Apache-2.0
#include "devices/net/connection_limit.h"

#include <algorithm>

#include "devices/net/frame.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;
constexpr uint8_t kIcmp = 1;

/// What a packet makes the library do, by the part that is behind the network's headers.
struct Packet {
    uint8_t protocol = 0;
    std::span<const std::byte> source{};
    std::span<const std::byte> destination{};
    std::span<const std::byte> transport{};
};

/// Nothing: the library opens nothing for it. It knows no VLAN and no extension headers.
std::optional<Packet> parse_packet(std::span<const std::byte> frame) {
    constexpr size_t kIp4Bytes = 20;
    constexpr size_t kIp6Bytes = 40;
    if (frame.size() < kEthernetHeaderBytes) {
        return std::nullopt;
    }
    const uint16_t type = read_be16(frame, 12);
    const auto ip = frame.subspan(kEthernetHeaderBytes);
    if (type == 0x0800 && ip.size() >= kIp4Bytes) {
        const size_t header_bytes = 4 * (std::to_integer<size_t>(ip[0]) & 0xf);
        if (header_bytes < kIp4Bytes || header_bytes > ip.size()) {
            return std::nullopt;
        }
        return Packet{.protocol = std::to_integer<uint8_t>(ip[9]),
                      .source = ip.subspan(12, 4),
                      .destination = ip.subspan(16, 4),
                      .transport = ip.subspan(header_bytes)};
    }
    if (type == 0x86dd && ip.size() >= kIp6Bytes) {
        return Packet{.protocol = std::to_integer<uint8_t>(ip[6]),
                      .source = ip.subspan(8, 16),
                      .destination = ip.subspan(24, 16),
                      .transport = ip.subspan(kIp6Bytes)};
    }
    return std::nullopt;
}

/// Questions for an address, to everybody: the library answers them itself.
bool asks_for_an_address(const Packet& packet) {
    constexpr uint16_t kDhcp4 = 67;
    constexpr uint16_t kDhcp6 = 547;
    const uint16_t port = read_be16(packet.transport, 2);
    const bool is_ip6 = packet.destination.size() == 16;
    return is_ip6 ? port == kDhcp6 && packet.destination[0] == std::byte{0xff}
                  : port == kDhcp4 && std::ranges::all_of(packet.destination, [](std::byte byte) {
                        return byte == std::byte{0xff};
                    });
}

}  // namespace

bool is_to_loopback(std::span<const std::byte> frame) {
    constexpr size_t kDestinationAt = kEthernetHeaderBytes + 16;
    constexpr uint8_t kLoopbackNetwork = 127;
    constexpr size_t kIp6DestinationAt = kEthernetHeaderBytes + 24;
    if (frame.size() >= kDestinationAt + 4 && read_be16(frame, 12) == 0x0800) {
        const auto first = std::to_integer<uint8_t>(frame[kDestinationAt]);
        return first == kLoopbackNetwork || first == 0;
    }
    if (frame.size() >= kIp6DestinationAt + 16 && read_be16(frame, 12) == 0x86dd) {
        const auto to = frame.subspan(kIp6DestinationAt, 16);
        // ::1, ::, and IPv4 in IPv6.
        const auto zeroes =
            std::ranges::find_if(to.first(10), [](std::byte byte) { return byte != std::byte{0}; });
        return zeroes == to.first(10).end();
    }
    return false;
}

std::string ConnectionLimit::source_of(std::span<const std::byte> address,
                                       std::span<const std::byte> port) {
    std::string text;
    for (const auto part : {address, port}) {
        for (const std::byte byte : part) {
            text.push_back(std::to_integer<char>(byte));
        }
    }
    return text;
}

bool ConnectionLimit::admits(std::span<const std::byte> frame) {
    source_.reset();
    const bool admitted = judge(frame);
    if (!admitted) {
        // What the library opens before the next packet is not for this one.
        source_.reset();
    }
    return admitted;
}

bool ConnectionLimit::judge(std::span<const std::byte> frame) {
    constexpr size_t kPortsBytes = 4;
    constexpr size_t kTcpFlagsAt = 13;
    constexpr uint8_t kSynAndAck = 0x12;
    constexpr uint8_t kSyn = 0x02;
    const auto packet = parse_packet(frame);
    if (!packet) {
        return true;
    }
    const bool is_datagram = packet->protocol == kUdp && packet->transport.size() >= kPortsBytes;
    if (is_datagram) {
        source_ = source_of(packet->source, packet->transport.first(2));
    }
    if (!is_full()) {
        return true;
    }
    const bool is_ip4 = packet->source.size() == 4;
    switch (packet->protocol) {
        case kTcp:
            return packet->transport.size() <= kTcpFlagsAt ||
                   (std::to_integer<uint8_t>(packet->transport[kTcpFlagsAt]) & kSynAndAck) != kSyn;
        case kUdp:
            return !is_datagram || sources_.contains(*source_) ||
                   forwarded_sources_.contains(*source_) || asks_for_an_address(*packet);
        case kIcmp:
            return !is_ip4;  // pings, each by a socket
        default:             // a protocol that the library does not know
            return true;
    }
}

void ConnectionLimit::on_open(int fd) {
    if (is_own_) {
        return;
    }
    forget_source(fd);  // it may have been closed without a word
    open_.insert(fd);
    if (source_) {
        source_by_fd_[fd] = *source_;
        sources_.insert(*source_);
    }
}

void ConnectionLimit::on_close(int fd) {
    open_.erase(fd);
    listeners_.erase(fd);
    forget_source(fd);
}

void ConnectionLimit::forget_source(int fd) {
    const auto found = source_by_fd_.find(fd);
    if (found != source_by_fd_.end()) {
        sources_.erase(sources_.find(found->second));
        source_by_fd_.erase(found);
    }
}

}  // namespace outrigger::net
