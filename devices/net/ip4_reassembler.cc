// SPDX-License-Identifier: Apache-2.0
#include "devices/net/ip4_reassembler.h"

#include <algorithm>
#include <cstring>

#include "devices/net/checksum.h"
#include "devices/net/frame.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

constexpr uint16_t kTypeIp4 = 0x0800;
constexpr size_t kHeaderBytesMin = 20;

// RFC 791, 3.1.
constexpr size_t kLengthAt = 2;
constexpr size_t kIdentityAt = 4;
constexpr size_t kFragmentAt = 6;
constexpr size_t kProtocolAt = 9;
constexpr size_t kChecksumAt = 10;
constexpr size_t kAddressesAt = 12;
constexpr uint16_t kMoreFragments = 0x2000;
constexpr uint16_t kOffsetMask = 0x1fff;

}  // namespace

bool Ip4Reassembler::is_fragment(std::span<const std::byte> frame) {
    return frame.size() >= kEthernetHeaderBytes + kHeaderBytesMin &&
           read_be16(frame, kEthernetHeaderBytes - 2) == kTypeIp4 &&
           (read_be16(frame, kEthernetHeaderBytes + kFragmentAt) &
            (kMoreFragments | kOffsetMask)) != 0;
}

Ip4Reassembler::Taken Ip4Reassembler::add(std::span<const std::byte> frame, Clock::time_point now) {
    constexpr Taken kRefused{.refused = true};
    const auto ip = frame.subspan(kEthernetHeaderBytes);
    const auto first = std::to_integer<uint8_t>(ip[0]);
    const size_t header_bytes = size_t{4} * (first & 0xfU);
    const size_t bytes = read_be16(ip, kLengthAt);
    if (first >> 4 != 4 || header_bytes < kHeaderBytesMin || bytes <= header_bytes ||
        bytes > ip.size() || finish_sum(add_to_sum(0, ip.first(header_bytes))) != 0) {
        return kRefused;
    }
    const uint16_t place = read_be16(ip, kFragmentAt);
    const Part part{.bytes = ip.first(bytes).subspan(header_bytes),
                    .offset = kUnitBytes * (place & kOffsetMask),
                    .is_last = (place & kMoreFragments) == 0};
    if ((!part.is_last && part.bytes.size() % kUnitBytes != 0) ||
        kHeaderBytesMin + part.offset + part.bytes.size() > kIpBytesMax) {
        return kRefused;
    }
    Key key{.identity = read_be16(ip, kIdentityAt), .protocol = ip[kProtocolAt]};
    std::memcpy(&key.addresses, ip.data() + kAddressesAt, sizeof key.addresses);
    forget_old(now);
    Packet& packet = find(key, now);
    if (!put(packet, part)) {
        forget(packet);
        return kRefused;
    }
    if (part.offset == 0) {
        const auto head = frame.first(kEthernetHeaderBytes + header_bytes);
        packet.head.assign(head.begin(), head.end());
    }
    if (packet.bytes_there != packet.end) {
        return {};
    }
    return finish(packet);
}

void Ip4Reassembler::forget_old(Clock::time_point now) {
    const auto young = std::ranges::find_if(
        packets_, [&](const Packet& packet) { return now - packet.begun <= kLifetime; });
    packets_.erase(packets_.begin(), young);
}

Ip4Reassembler::Packet& Ip4Reassembler::find(const Key& key, Clock::time_point now) {
    const auto found = std::ranges::find(packets_, key, &Packet::key);
    if (found != packets_.end()) {
        return *found;
    }
    if (packets_.size() == kPacketsMax) {
        packets_.erase(packets_.begin());
    }
    return packets_.emplace_back(Packet{.key = key, .begun = now});
}

bool Ip4Reassembler::put(Packet& packet, const Part& part) {
    const size_t end = part.offset + part.bytes.size();
    const size_t first = part.offset / kUnitBytes;
    const size_t last = (end - 1) / kUnitBytes;
    size_t known = 0;
    for (size_t unit = first; unit <= last; ++unit) {
        known += packet.there[unit] ? 1U : 0U;
    }
    if (known == last - first + 1 && end <= packet.payload.size()) {
        return true;  // it came twice
    }
    if (known > 0 || (packet.end && end > *packet.end) ||
        (part.is_last && (packet.end || end < packet.payload.size()))) {
        return false;
    }
    if (part.is_last) {
        packet.end = end;
    }
    packet.payload.resize(std::max(packet.payload.size(), end));
    std::ranges::copy(part.bytes, packet.payload.begin() + static_cast<ptrdiff_t>(part.offset));
    for (size_t unit = first; unit <= last; ++unit) {
        packet.there.set(unit);
    }
    packet.bytes_there += part.bytes.size();
    return true;
}

Ip4Reassembler::Taken Ip4Reassembler::finish(Packet& packet) {
    const size_t header_bytes = packet.head.size() - kEthernetHeaderBytes;
    const size_t ip_bytes = header_bytes + packet.payload.size();
    if (ip_bytes > kIpBytesMax) {
        forget(packet);
        return {.refused = true};
    }
    whole_.clear();
    whole_.insert(whole_.end(), packet.head.begin(), packet.head.end());
    whole_.insert(whole_.end(), packet.payload.begin(), packet.payload.end());
    forget(packet);
    const auto ip = std::span(whole_).subspan(kEthernetHeaderBytes);
    write_be16(ip, kLengthAt, static_cast<uint16_t>(ip_bytes));
    write_be16(ip, kFragmentAt, 0);
    write_be16(ip, kChecksumAt, 0);
    const uint16_t sum = finish_sum(add_to_sum(0, ip.first(header_bytes)));
    std::memcpy(ip.data() + kChecksumAt, &sum, sizeof sum);
    return {.whole = whole_};
}

void Ip4Reassembler::forget(const Packet& packet) {
    packets_.erase(packets_.begin() + (&packet - packets_.data()));
}

}  // namespace outrigger::net
