// SPDX-License-Identifier: Apache-2.0
#include "devices/net/guest_connections.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>

#include "devices/net/checksum.h"
#include "devices/net/frame.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

constexpr uint8_t kEndedByGuest = 1;
constexpr uint8_t kEndedByPeer = 2;

constexpr size_t kFlagsAt = 13;
constexpr uint8_t kFin = 0x01;
constexpr uint8_t kSyn = 0x02;
constexpr uint8_t kReset = 0x04;
constexpr uint8_t kAck = 0x10;

constexpr size_t kTcpBytes = 20;
constexpr size_t kIp4Bytes = 20;
constexpr size_t kIp6Bytes = 40;
constexpr uint8_t kHopLimit = 64;

/// Connections whose hashes are alike, one of which may have to go for a new one.
constexpr size_t kWays = 8;

template <size_t kCount>
void copy_from(std::span<const std::byte> bytes, size_t at, std::array<std::byte, kCount>& to) {
    std::ranges::copy(bytes.subspan(at, kCount), to.begin());
}

}  // namespace

/// What of a frame says to which connection it belongs.
struct GuestConnections::Segment {
    Entry entry{};
    size_t first_index = 0;
    uint8_t flags = 0;

    static std::optional<Segment> parse(std::span<const std::byte> frame, bool from_guest) {
        const auto front = frame.first(std::min(frame.size(), kHeadersBytesMax));
        const auto layout = find_layout(front);
        if (!layout || layout->protocol != kTcpProtocol) {
            return std::nullopt;
        }
        const bool is_ip4 = layout->network == NetworkKind::kIp4;
        const size_t address_bytes = is_ip4 ? 4 : 16;
        const size_t source_at = layout->network_start + (is_ip4 ? 12 : 8);
        Segment segment;
        segment.flags = std::to_integer<uint8_t>(front[layout->transport_start + kFlagsAt]);
        segment.first_index = flow_hash(front, *layout) % (kConnectionsMax / kWays) * kWays;
        Entry& entry = segment.entry;
        entry.network = is_ip4 ? 4 : 6;
        copy_from(front, 0, from_guest ? entry.router_station : entry.guest_station);
        copy_from(front, 6, from_guest ? entry.guest_station : entry.router_station);
        copy_from(front, layout->transport_start, from_guest ? entry.guest_port : entry.peer_port);
        copy_from(
            front, layout->transport_start + 2, from_guest ? entry.peer_port : entry.guest_port);
        std::ranges::copy(front.subspan(source_at, address_bytes),
                          from_guest ? entry.guest_address.begin() : entry.peer_address.begin());
        std::ranges::copy(front.subspan(source_at + address_bytes, address_bytes),
                          from_guest ? entry.peer_address.begin() : entry.guest_address.begin());
        return segment;
    }

    [[nodiscard]] bool is_of(const Entry& other) const {
        return entry.network == other.network && entry.guest_port == other.guest_port &&
               entry.peer_port == other.peer_port && entry.guest_address == other.guest_address &&
               entry.peer_address == other.peer_address;
    }
};

GuestConnections::GuestConnections(Mapping kept) : kept_(std::move(kept)) {
    for (size_t i = 0; kept_.size() != 0 && i < kConnectionsMax; ++i) {
        if (Entry entry = load(i); entry.network != 0) {
            entry.is_of_another = 1;
            store(i, entry);
        }
    }
}

GuestConnections::Entry GuestConnections::load(size_t index) const {
    static_assert(std::is_trivially_copyable_v<Entry>);
    Entry entry;
    std::memcpy(&entry, kept_.data() + index * kEntryBytes, sizeof entry);
    return entry;
}

void GuestConnections::store(size_t index, const Entry& entry) {
    std::memcpy(kept_.data() + index * kEntryBytes, &entry, sizeof entry);
}

void GuestConnections::note_sent(std::span<const std::byte> frame) {
    note(frame, true);
}

void GuestConnections::note_received(std::span<const std::byte> frame) {
    note(frame, false);
}

void GuestConnections::note(std::span<const std::byte> frame, bool from_guest) {
    if (kept_.size() == 0) {
        return;
    }
    const auto segment = Segment::parse(frame, from_guest);
    if (!segment) {
        return;
    }
    ++now_;
    size_t chosen = segment->first_index;
    uint32_t longest = 0;
    for (size_t i = segment->first_index; i < segment->first_index + kWays; ++i) {
        Entry entry = load(i);
        if (segment->is_of(entry)) {
            if (from_guest && (segment->flags & kSyn) != 0) {
                entry.ended = 0;
                entry.is_of_another = 0;
            }
            if ((segment->flags & kFin) != 0) {
                entry.ended |= from_guest ? kEndedByGuest : kEndedByPeer;
            }
            const bool is_over =
                (segment->flags & kReset) != 0 || entry.ended == (kEndedByGuest | kEndedByPeer);
            entry.last_used = now_;
            store(i, is_over ? Entry{} : entry);
            return;
        }
        const uint32_t unused_for = entry.network == 0 ? UINT32_MAX : now_ - entry.last_used;
        if (unused_for > longest) {
            chosen = i;
            longest = unused_for;
        }
    }
    // Only what the guest sends is of a connection that it knows; and the last ACK of one that is
    // over is none.
    if (from_guest && (segment->flags & (kReset | kFin)) == 0) {
        Entry entry = segment->entry;
        entry.last_used = now_;
        store(chosen, entry);
    }
}

size_t GuestConnections::ask(const std::function<void(std::span<const std::byte>)>& send) const {
    size_t count = 0;
    for (size_t i = 0; kept_.size() != 0 && i < kConnectionsMax; ++i) {
        const Entry entry = load(i);
        if ((entry.network != 4 && entry.network != 6) || entry.is_of_another == 0) {
            continue;
        }
        const bool is_ip4 = entry.network == 4;
        const size_t address_bytes = is_ip4 ? 4 : 16;
        const size_t ip_bytes = is_ip4 ? kIp4Bytes : kIp6Bytes;
        std::array<std::byte, kEthernetHeaderBytes + kIp6Bytes + kTcpBytes> bytes{};
        const auto frame = std::span(bytes).first(kEthernetHeaderBytes + ip_bytes + kTcpBytes);
        std::ranges::copy(entry.guest_station, frame.begin());
        std::ranges::copy(entry.router_station, frame.begin() + 6);
        write_be16(frame, 12, is_ip4 ? 0x0800 : 0x86dd);
        const auto ip = frame.subspan(kEthernetHeaderBytes);
        if (is_ip4) {
            ip[0] = std::byte{0x45};
            write_be16(ip, 2, static_cast<uint16_t>(kIp4Bytes + kTcpBytes));
            ip[8] = std::byte{kHopLimit};
            ip[9] = std::byte{kTcpProtocol};
        } else {
            ip[0] = std::byte{0x60};
            write_be16(ip, 4, static_cast<uint16_t>(kTcpBytes));
            ip[6] = std::byte{kTcpProtocol};
            ip[7] = std::byte{kHopLimit};
        }
        const size_t addresses_at = is_ip4 ? 12 : 8;
        std::ranges::copy(std::span(entry.peer_address).first(address_bytes),
                          ip.subspan(addresses_at).begin());
        std::ranges::copy(std::span(entry.guest_address).first(address_bytes),
                          ip.subspan(addresses_at + address_bytes).begin());
        if (is_ip4) {
            const uint16_t sum = finish_sum(add_to_sum(0, ip.first(kIp4Bytes)));
            std::memcpy(&ip[10], &sum, sizeof sum);
        }
        // An acknowledgement of nothing, at a place where hardly any connection is (RFC 9293,
        // 3.10.7.4: what is not acceptable is answered with an acknowledgement).
        const auto tcp = ip.subspan(ip_bytes);
        std::ranges::copy(entry.peer_port, tcp.begin());
        std::ranges::copy(entry.guest_port, tcp.begin() + 2);
        tcp[12] = std::byte{kTcpBytes / 4 << 4};
        tcp[kFlagsAt] = std::byte{kAck};
        const PacketLayout layout{.network = is_ip4 ? NetworkKind::kIp4 : NetworkKind::kIp6,
                                  .protocol = kTcpProtocol,
                                  .network_start = kEthernetHeaderBytes,
                                  .transport_start = kEthernetHeaderBytes + ip_bytes,
                                  .payload_start = kEthernetHeaderBytes + ip_bytes + kTcpBytes};
        const uint16_t sum =
            finish_sum(add_to_sum(pseudo_header_sum(frame, layout, kTcpBytes), tcp));
        std::memcpy(&tcp[16], &sum, sizeof sum);
        send(frame);
        ++count;
    }
    return count;
}

}  // namespace outrigger::net
