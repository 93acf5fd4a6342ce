// SPDX-License-Identifier: Apache-2.0
#include "devices/net/sender_guard.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>

#include <arpa/inet.h>

#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

using Bytes = std::span<const std::byte>;

constexpr uint16_t kTypeIp4 = 0x0800;
constexpr uint16_t kTypeArp = 0x0806;
constexpr uint16_t kTypeReverseArp = 0x8035;
constexpr uint16_t kTypeIp6 = 0x86dd;
constexpr uint16_t kTypeVlan = 0x8100;
constexpr uint16_t kTypeServiceVlan = 0x88a8;
constexpr int kVlanTagsMax = 2;
constexpr size_t kSourceAt = 6;

constexpr size_t kArpBytes = 28;
constexpr size_t kIp4HeaderBytes = 20;
constexpr size_t kIp6HeaderBytes = 40;
constexpr size_t kUdpHeaderBytes = 8;
constexpr size_t kIp4Bytes = 4;
constexpr size_t kIp6Bytes = 16;

// IPv6 headers. RFC 8200, 4.
constexpr uint8_t kHopByHop = 0;
constexpr uint8_t kRouting = 43;
constexpr uint8_t kFragment = 44;
constexpr uint8_t kAuthentication = 51;
constexpr uint8_t kIcmp6 = 58;
constexpr uint8_t kDestinationOptions = 60;
constexpr int kExtensionHeadersMax = 8;

// ICMPv6. RFC 4861, 4; RFC 3810, 5.
constexpr uint8_t kListenerReport = 131;
constexpr uint8_t kListenerDone = 132;
constexpr uint8_t kRouterSolicitation = 133;
constexpr uint8_t kRouterAdvertisement = 134;
constexpr uint8_t kNeighbourSolicitation = 135;
constexpr uint8_t kNeighbourAdvertisement = 136;
constexpr uint8_t kRedirect = 137;
constexpr uint8_t kListenerReport2 = 143;
constexpr size_t kTargetAt = 8;

uint8_t u8(Bytes bytes, size_t at) {
    return std::to_integer<uint8_t>(bytes[at]);
}

bool is_zero(Bytes bytes) {
    return std::ranges::all_of(bytes, [](std::byte each) { return each == std::byte{0}; });
}

/// Of options of neighbour discovery: each that names a station names this one.
bool name_only(StationAddress station, Bytes options) {
    constexpr uint8_t kSourceStation = 1;
    constexpr uint8_t kTargetStation = 2;
    constexpr size_t kUnit = 8;
    while (!options.empty()) {
        const size_t bytes = options.size() < 2 ? 0 : kUnit * u8(options, 1);
        if (bytes == 0 || bytes > options.size()) {
            return false;
        }
        const uint8_t type = u8(options, 0);
        if ((type == kSourceStation || type == kTargetStation) &&
            (bytes != kUnit || read_station(options, 2) != station)) {
            return false;
        }
        options = options.subspan(bytes);
    }
    return true;
}

/// Where an upper protocol begins.
struct Upper {
    uint8_t protocol = 0;
    size_t at = 0;
    bool is_fragment = false;
    bool is_later = false;  ///< a fragment behind the first, which has no headers
};

/// Nothing: the headers are not all there, or too many. RFC 7112: a first fragment has them all.
std::optional<Upper> find_upper(Bytes packet) {
    constexpr uint16_t kOffsetMask = 0xfff8;
    Upper upper{.protocol = u8(packet, 6), .at = kIp6HeaderBytes};
    for (int i = 0; i < kExtensionHeadersMax; ++i) {
        const bool is_extension = upper.protocol == kHopByHop || upper.protocol == kRouting ||
                                  upper.protocol == kDestinationOptions ||
                                  upper.protocol == kFragment || upper.protocol == kAuthentication;
        if (!is_extension) {
            return upper;
        }
        if (packet.size() < upper.at + 8) {
            return std::nullopt;
        }
        size_t bytes = size_t{8} * (u8(packet, upper.at + 1) + 1U);
        if (upper.protocol == kAuthentication) {
            bytes = size_t{4} * (u8(packet, upper.at + 1) + 2U);
        } else if (upper.protocol == kFragment) {
            bytes = 8;
            upper.is_fragment = true;
            upper.is_later = (read_be16(packet, upper.at + 2) & kOffsetMask) != 0;
        }
        upper.protocol = u8(packet, upper.at);
        upper.at += bytes;
        if (upper.is_later) {
            return upper;
        }
    }
    return std::nullopt;
}

/// Does what is left to be done leave everything as it is that was looked at?
bool keeps_sender(Bytes front, const FrameOffload& offload) {
    if (!offload.needs_checksum) {
        return offload.segmentation == Segmentation::kNone;
    }
    const auto layout = find_layout(front);
    if (!layout) {
        return false;
    }
    const size_t start = offload.checksum_start;
    const bool is_tcp = layout->protocol == kTcpProtocol;
    if (start == layout->transport_start &&
        offload.checksum_offset == (is_tcp ? kTcpChecksumOffset : kUdpChecksumOffset)) {
        return true;
    }
    // Of a packet in a tunnel.
    return offload.segmentation == Segmentation::kNone &&
           start + offload.checksum_offset >= layout->payload_start;
}

}  // namespace

bool IpRange::has(Bytes address) const {
    if (address.size() != (is_ip6 ? kIp6Bytes : kIp4Bytes)) {
        return false;
    }
    const size_t whole = bits / 8;
    const auto mask = static_cast<std::byte>(0xff00U >> (bits % 8));
    return std::ranges::equal(address.first(whole), Bytes(prefix).first(whole)) &&
           (bits % 8 == 0 || ((address[whole] ^ prefix[whole]) & mask) == std::byte{0});
}

std::optional<IpRange> parse_ip_range(std::string_view text) {
    IpRange range;
    const size_t slash = text.find('/');
    const std::string address(text.substr(0, slash));
    range.is_ip6 = ::inet_pton(AF_INET6, address.c_str(), range.prefix.data()) == 1;
    if (!range.is_ip6 && ::inet_pton(AF_INET, address.c_str(), range.prefix.data()) != 1) {
        return std::nullopt;
    }
    const unsigned bits_max = 8 * (range.is_ip6 ? kIp6Bytes : kIp4Bytes);
    range.bits = bits_max;
    if (slash != std::string_view::npos) {
        const std::string_view digits = text.substr(slash + 1);
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), range.bits);
        if (error != std::errc() || end != digits.data() + digits.size() || range.bits > bits_max) {
            return std::nullopt;
        }
    }
    for (unsigned bit = range.bits; bit < bits_max; ++bit) {
        if ((range.prefix[bit / 8] & (std::byte{0x80} >> (bit % 8))) != std::byte{0}) {
            return std::nullopt;
        }
    }
    return range;
}

bool SenderGuard::allows(Bytes front, const FrameOffload& offload) const {
    return allows_sender(front) && keeps_sender(front, offload);
}

bool SenderGuard::allows_sender(Bytes front) const {
    if (front.size() < kEthernetHeaderBytes) {
        return false;
    }
    const StationAddress source = read_station(front, kSourceAt);
    if (is_group(source) || (!rules_.stations.empty() &&
                             std::ranges::find(rules_.stations, source) == rules_.stations.end())) {
        return false;
    }
    size_t at = kEthernetHeaderBytes;
    uint16_t type = read_be16(front, at - 2);
    for (int i = 0; i < kVlanTagsMax && (type == kTypeVlan || type == kTypeServiceVlan); ++i) {
        if (front.size() < at + kVlanTagBytes) {
            return false;
        }
        type = read_be16(front, at + 2);
        at += kVlanTagBytes;
    }
    if (type == kTypeVlan || type == kTypeServiceVlan) {
        return false;  // it would hide what is behind it
    }
    const Bytes packet = front.subspan(at);
    switch (type) {
        case kTypeArp:
            return allows_arp(packet, source);
        case kTypeReverseArp:
            return allows_reverse_arp(packet, source);
        case kTypeIp4:
            return allows_ip4(packet);
        case kTypeIp6:
            return allows_ip6(packet, source);
        default:  // the many others
            // Something that carries IP could be behind it.
            return rules_.addresses.empty();
    }
}

/// RFC 826, of IPv4 over Ethernet. A probe has no address yet (RFC 5227).
bool SenderGuard::allows_arp(Bytes packet, StationAddress source) const {
    constexpr size_t kSenderStationAt = 8;
    constexpr size_t kSenderAddressAt = 14;
    if (packet.size() < kArpBytes || read_be16(packet, 0) != 1 ||
        read_be16(packet, 2) != kTypeIp4 || u8(packet, 4) != kStationBytes ||
        u8(packet, 5) != kIp4Bytes || read_station(packet, kSenderStationAt) != source) {
        return false;
    }
    const Bytes address = packet.subspan(kSenderAddressAt, kIp4Bytes);
    return rules_.addresses.empty() || is_zero(address) || is_allowed(address);
}

/// RFC 903: a question, for the asker itself. That is how switches are told of a guest that moved.
bool SenderGuard::allows_reverse_arp(Bytes packet, StationAddress source) const {
    constexpr uint16_t kQuestion = 3;
    constexpr size_t kSenderStationAt = 8;
    return packet.size() >= kArpBytes && read_be16(packet, 6) == kQuestion &&
           read_station(packet, kSenderStationAt) == source;
}

bool SenderGuard::allows_ip4(Bytes packet) const {
    if (rules_.addresses.empty()) {
        return true;
    }
    if (packet.size() < kIp4HeaderBytes || u8(packet, 0) >> 4 != 4) {
        return false;
    }
    const Bytes address = packet.subspan(12, kIp4Bytes);
    if (is_allowed(address)) {
        return true;
    }
    // RFC 2131, 4.1: whoever has no address asks everybody for one.
    constexpr uint16_t kFragmentMask = 0x3fff;
    constexpr uint16_t kClientPort = 68;
    constexpr uint16_t kServerPort = 67;
    const size_t header_bytes = size_t{4} * (u8(packet, 0) & 0xfU);
    return is_zero(address) && header_bytes >= kIp4HeaderBytes &&
           packet.size() >= header_bytes + kUdpHeaderBytes && u8(packet, 9) == kUdpProtocol &&
           read_be32(packet, 16) == 0xffff'ffff && (read_be16(packet, 6) & kFragmentMask) == 0 &&
           read_be16(packet, header_bytes) == kClientPort &&
           read_be16(packet, header_bytes + 2) == kServerPort;
}

bool SenderGuard::allows_ip6(Bytes packet, StationAddress source) const {
    if (packet.size() < kIp6HeaderBytes || u8(packet, 0) >> 4 != 6) {
        return false;
    }
    const Bytes address = packet.subspan(8, kIp6Bytes);
    const bool is_unspecified = is_zero(address);
    if (!rules_.addresses.empty() && !is_unspecified && !is_own_ip6(address, source)) {
        return false;
    }
    const auto upper = find_upper(packet);
    if (!upper) {
        return false;
    }
    if (upper->is_later || upper->protocol != kIcmp6) {
        return rules_.addresses.empty() || !is_unspecified;
    }
    // All of the message, as its header says; what is not there cannot be looked at.
    const size_t end = kIp6HeaderBytes + read_be16(packet, 4);
    if (packet.size() <= upper->at || end <= upper->at) {
        return false;
    }
    const uint8_t type = u8(packet, upper->at);
    if (type < kRouterSolicitation || type > kRedirect) {
        const bool may_be_nobody =
            type == kListenerReport || type == kListenerDone || type == kListenerReport2;
        return rules_.addresses.empty() || !is_unspecified || may_be_nobody;
    }
    // RFC 6980: neighbour discovery is never in fragments.
    return !upper->is_fragment && end <= packet.size() &&
           allows_discovery(packet.subspan(upper->at, end - upper->at), source, is_unspecified);
}

bool SenderGuard::allows_discovery(Bytes message,
                                   StationAddress source,
                                   bool is_unspecified) const {
    const uint8_t type = u8(message, 0);
    const bool has_target = type == kNeighbourSolicitation || type == kNeighbourAdvertisement;
    size_t options_at = has_target ? kTargetAt + kIp6Bytes : kTargetAt;
    if (type == kRouterAdvertisement || type == kRedirect) {
        if (!rules_.addresses.empty()) {
            return false;
        }
        options_at = type == kRedirect ? kTargetAt + 2 * kIp6Bytes : kTargetAt + 8;
    }
    if (message.size() < options_at) {
        return false;
    }
    // Who asks whether an address is taken, asks for its own.
    const bool claims =
        type == kNeighbourAdvertisement || (type == kNeighbourSolicitation && is_unspecified);
    if (claims && !rules_.addresses.empty() &&
        !is_own_ip6(message.subspan(kTargetAt, kIp6Bytes), source)) {
        return false;
    }
    // A redirect names the station of somebody else.
    return type == kRedirect || name_only(source, message.subspan(options_at));
}

bool SenderGuard::is_allowed(Bytes address) const {
    return std::ranges::any_of(rules_.addresses,
                               [&](const IpRange& range) { return range.has(address); });
}

/// An allowed one, or the link-local one that is made of the station. RFC 4291, 2.5.6 and A.
bool SenderGuard::is_own_ip6(Bytes address, StationAddress source) const {
    std::array<std::byte, kIp6Bytes> own{std::byte{0xfe}, std::byte{0x80}};
    std::array<std::byte, kStationBytes> station{};
    write_station(source, station, 0);
    std::copy_n(station.begin(), 3, own.begin() + 8);
    own[8] ^= std::byte{2};
    own[11] = std::byte{0xff};
    own[12] = std::byte{0xfe};
    std::copy_n(station.begin() + 3, 3, own.begin() + 13);
    return std::ranges::equal(address, own) || is_allowed(address);
}

}  // namespace outrigger::net
