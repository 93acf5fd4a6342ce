// SPDX-License-Identifier: Apache-2.0
#include "tests/support/net_frames.h"

namespace outrigger::testing {
namespace {

constexpr size_t kEthernet = 14;

uint32_t byte_at(std::string_view bytes, size_t at) {
    return static_cast<uint8_t>(bytes.at(at));
}

uint32_t be16_at(std::string_view bytes, size_t at) {
    return byte_at(bytes, at) << 8 | byte_at(bytes, at + 1);
}

uint32_t be32_at(std::string_view bytes, size_t at) {
    return be16_at(bytes, at) << 16 | be16_at(bytes, at + 2);
}

std::string be16(uint32_t value) {
    return {static_cast<char>(value >> 8 & 0xff), static_cast<char>(value & 0xff)};
}

std::string be32(uint32_t value) {
    return be16(value >> 16) + be16(value & 0xffff);
}

/// The sum of RFC 1071 with its carries added, in the order of the network.
uint32_t sum_of(std::string_view bytes) {
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
        sum += i % 2 == 0 ? byte_at(bytes, i) << 8 : byte_at(bytes, i);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

std::string address(bool ip6, int last) {
    std::string bytes =
        ip6 ? std::string("\xfd") + std::string(15, '\0') : std::string("\x0a\0\0\0", 4);
    bytes.back() = static_cast<char>(last);
    return bytes;
}

size_t extension_bytes_of(const FrameOptions& options) {
    return (options.hop_by_hop ? size_t{8} : 0) + options.destination_option_bytes;
}

/// An extension header of so many bytes of padding (RFC 8200, 4.2).
std::string extension(uint32_t next, size_t bytes) {
    std::string header{static_cast<char>(next), static_cast<char>(bytes / 8 - 1)};
    header += '\x01';
    header += static_cast<char>(bytes - 4);
    return header + std::string(bytes - 4, '\0');
}

/// Where the network's header begins.
size_t network_start_of(std::string_view frame) {
    size_t at = kEthernet - 2;
    while (be16_at(frame, at) == 0x8100) {
        at += 4;
    }
    return at + 2;
}

std::string pseudo_header(bool ip6, std::string_view addresses, uint32_t protocol, size_t bytes) {
    const auto length = static_cast<uint32_t>(bytes);
    std::string header(addresses);
    return header + (ip6 ? be32(length) + be32(protocol) : be16(protocol) + be16(length));
}

}  // namespace

std::string make_payload(size_t bytes, uint32_t seed) {
    std::string text(bytes, '\0');
    for (char& c : text) {
        seed = seed * 1664525 + 1013904223;
        c = static_cast<char>(seed >> 24);
    }
    return text;
}

size_t transport_start_of(const FrameOptions& options) {
    const size_t network = kEthernet + 4 * static_cast<size_t>(options.vlan_tags);
    return network +
           (options.ip6 ? 40 + extension_bytes_of(options) : 20 + options.ip_option_bytes);
}

std::string make_frame(std::string_view payload, const FrameOptions& options) {
    const uint32_t protocol = options.udp ? 17 : 6;
    const std::string addresses =
        (options.source.empty() ? address(options.ip6, 1) : options.source) +
        (options.destination.empty() ? address(options.ip6, 2) : options.destination);

    std::string transport = be16(options.source_port) + be16(options.destination_port);
    const size_t checksum_at = options.udp ? 6 : 16;
    if (options.udp) {
        transport += be16(static_cast<uint32_t>(8 + payload.size())) + be16(0);
    } else {
        const auto words = static_cast<uint32_t>(5 + options.tcp_option_bytes / 4);
        transport += be32(options.sequence) + be32(options.acknowledged) +
                     be16(words << 12 | options.tcp_flags);
        transport += be16(options.window) + be16(0) + be16(0);
        transport += std::string(options.tcp_option_bytes, '\x01');
    }
    transport += payload;
    const std::string pseudo = pseudo_header(options.ip6, addresses, protocol, transport.size());
    uint32_t sum = options.partial_checksum ? sum_of(pseudo) : sum_of(pseudo + transport) ^ 0xffffU;
    if (options.udp && sum == 0) {
        sum = 0xffff;
    }
    transport.replace(checksum_at, 2, be16(sum));

    std::string network;
    if (options.ip6) {
        const size_t extensions = extension_bytes_of(options);
        const uint32_t behind = options.destination_option_bytes > 0 ? 60 : protocol;
        network = be32(6U << 28) + be16(static_cast<uint32_t>(extensions + transport.size()));
        network += static_cast<char>(options.hop_by_hop ? 0 : behind);
        network += '\x40' + addresses;
        network += options.hop_by_hop ? extension(behind, 8) : "";
        network += options.destination_option_bytes > 0
                       ? extension(protocol, options.destination_option_bytes)
                       : "";
    } else {
        const auto words = static_cast<uint32_t>(5 + options.ip_option_bytes / 4);
        network = be16(0x4000 | words << 8);
        network += be16(static_cast<uint32_t>(20 + options.ip_option_bytes + transport.size()));
        network += be16(options.identity) + be16(0x4000) + be16(0x4000 | protocol) + be16(0);
        network += addresses + std::string(options.ip_option_bytes, '\x01');
        network.replace(10, 2, be16(sum_of(network) ^ 0xffffU));
    }

    std::string frame = options.to_mac + std::string("\x52\x54\0\0\0\x01", 6);
    for (int i = 0; i < options.vlan_tags; ++i) {
        frame += be16(0x8100) + be16(5);
    }
    return frame + be16(options.ip6 ? 0x86dd : 0x0800) + network + transport;
}

std::string fragment_of(std::string_view frame, size_t begin, size_t end) {
    const size_t at = network_start_of(frame);
    const size_t header = 4 * (byte_at(frame, at) & 0xf);
    const std::string_view payload = frame.substr(at + header);
    const uint32_t more = end < payload.size() ? 0x2000 : 0;
    std::string network(frame.substr(at, header));
    network.replace(2, 2, be16(static_cast<uint32_t>(header + end - begin)));
    network.replace(6, 2, be16(static_cast<uint32_t>(begin / 8) | more));
    network.replace(10, 2, be16(0));
    network.replace(10, 2, be16(sum_of(network) ^ 0xffffU));
    return std::string(frame.substr(0, at)) + network +
           std::string(payload.substr(begin, end - begin));
}

std::optional<ReadFrame> read_frame(std::string_view frame) {
    const size_t network = network_start_of(frame);
    const bool ip6 = be16_at(frame, network - 2) == 0x86dd;
    ReadFrame read;
    uint32_t protocol = 0;
    std::string_view addresses;
    if (ip6) {
        if (be16_at(frame, network + 4) != frame.size() - network - 40) {
            return std::nullopt;
        }
        protocol = byte_at(frame, network + 6);
        read.transport_start = network + 40;
        while (protocol == 0 || protocol == 60) {
            protocol = byte_at(frame, read.transport_start);
            read.transport_start += 8 * (byte_at(frame, read.transport_start + 1) + 1);
        }
        addresses = frame.substr(network + 8, 32);
    } else {
        const size_t header = 4 * (byte_at(frame, network) & 0xf);
        if (be16_at(frame, network + 2) != frame.size() - network ||
            sum_of(frame.substr(network, header)) != 0xffff) {
            return std::nullopt;
        }
        protocol = byte_at(frame, network + 9);
        read.identity = static_cast<uint16_t>(be16_at(frame, network + 4));
        read.transport_start = network + header;
        addresses = frame.substr(network + 12, 8);
    }
    read.source = addresses.substr(0, addresses.size() / 2);
    read.destination = addresses.substr(addresses.size() / 2);
    const std::string_view transport = frame.substr(read.transport_start);
    read.source_port = static_cast<uint16_t>(be16_at(transport, 0));
    read.destination_port = static_cast<uint16_t>(be16_at(transport, 2));
    const std::string pseudo = pseudo_header(ip6, addresses, protocol, transport.size());
    if (sum_of(pseudo + std::string(transport)) != 0xffff) {
        return std::nullopt;
    }
    if (protocol == 17) {
        read.is_udp = true;
        read.payload_start = read.transport_start + 8;
        if (be16_at(transport, 4) != transport.size() || be16_at(transport, 6) == 0) {
            return std::nullopt;
        }
    } else if (protocol == 6) {
        read.sequence = be32_at(transport, 4);
        read.acknowledged = be32_at(transport, 8);
        read.tcp_flags = static_cast<uint8_t>(byte_at(transport, 13));
        read.payload_start = read.transport_start + 4 * (byte_at(transport, 12) >> 4);
    } else {
        return std::nullopt;
    }
    read.payload = frame.substr(read.payload_start);
    return read;
}

}  // namespace outrigger::testing
