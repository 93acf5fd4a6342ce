// SPDX-License-Identifier: Apache-2.0
#include "devices/net/offload.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "vhost-user-backend/base/error.h"

#include "devices/net/checksum.h"

namespace outrigger::net {
namespace {

constexpr size_t kTcpSequenceOffset = 4;
constexpr size_t kTcpFlagsOffset = 13;
constexpr std::byte kTcpFin{0x01};
constexpr std::byte kTcpPush{0x08};
constexpr std::byte kTcpCongestionReduced{0x80};

constexpr size_t kIp4LengthOffset = 2;
constexpr size_t kIp4IdentityOffset = 4;
constexpr size_t kIp4ChecksumOffset = 10;
constexpr size_t kIp6LengthOffset = 4;
constexpr size_t kIp6HeaderBytes = 40;

// RFC 2131, 4.1; RFC 8415, 7.2.
constexpr uint16_t kDhcp4ServerPort = 67;
constexpr uint16_t kDhcp6ServerPort = 547;

void store_sum(std::span<std::byte> frame, size_t at, uint16_t folded) {
    std::memcpy(frame.data() + at, &folded, sizeof folded);
}

void write_network_length(std::span<std::byte> packet, const PacketLayout& layout) {
    const size_t at = layout.network_start;
    if (layout.network == NetworkKind::kIp6) {
        write_be16(packet,
                   at + kIp6LengthOffset,
                   static_cast<uint16_t>(packet.size() - at - kIp6HeaderBytes));
        return;
    }
    write_be16(packet, at + kIp4LengthOffset, static_cast<uint16_t>(packet.size() - at));
    write_be16(packet, at + kIp4ChecksumOffset, 0);
    const auto header = packet.subspan(at, layout.transport_start - at);
    store_sum(packet, at + kIp4ChecksumOffset, finish_sum(add_to_sum(0, header)));
}

/// All of it, whatever is in the field.
void write_transport_checksum(std::span<std::byte> packet, const PacketLayout& layout) {
    const bool is_udp = layout.protocol == kUdpProtocol;
    const size_t at = layout.transport_start + (is_udp ? kUdpChecksumOffset : kTcpChecksumOffset);
    const auto transport = packet.subspan(layout.transport_start);
    write_be16(packet, at, 0);
    const uint16_t sum =
        finish_sum(add_to_sum(pseudo_header_sum(packet, layout, transport.size()), transport));
    // RFC 768: 0 says that there is none.
    store_sum(packet, at, is_udp && sum == 0 ? uint16_t{0xffff} : sum);
}

bool is_of_kind(const PacketLayout& layout, Segmentation segmentation) {
    switch (segmentation) {
        case Segmentation::kNone:
            return false;
        case Segmentation::kTcp4:
            return layout.network == NetworkKind::kIp4 && layout.protocol == kTcpProtocol;
        case Segmentation::kTcp6:
            return layout.network == NetworkKind::kIp6 && layout.protocol == kTcpProtocol;
        case Segmentation::kUdp:
            return layout.protocol == kUdpProtocol;
    }
    return false;
}

/// The length that an IP header can say.
bool fits_in_ip(size_t packet_bytes, const PacketLayout& layout) {
    const size_t fixed = layout.network == NetworkKind::kIp6 ? kIp6HeaderBytes : 0;
    return packet_bytes - layout.network_start - fixed <= 0xffff;
}

}  // namespace

bool is_ip6_frame(std::span<const std::byte> front) {
    size_t at = kEthernetHeaderBytes - 2;
    for (int tags = 0; tags < 2 && at + 2 <= front.size(); ++tags) {
        const uint16_t type = read_be16(front, at);
        if (type != 0x8100 && type != 0x88a8) {
            break;
        }
        at += kVlanTagBytes;
    }
    return at + 2 <= front.size() && read_be16(front, at) == 0x86dd;
}

bool is_taken(const FrameOffload& offload, bool is_ip6, const Offloads& taker) {
    if (offload.needs_checksum && !taker.checksum) {
        return false;
    }
    switch (offload.segmentation) {
        case Segmentation::kNone:
            return true;
        case Segmentation::kTcp4:
            return taker.tcp4 && (taker.ecn || !offload.ecn);
        case Segmentation::kTcp6:
            return taker.tcp6 && (taker.ecn || !offload.ecn);
        case Segmentation::kUdp:
            return is_ip6 ? taker.udp6 : taker.udp4;
    }
    return false;
}

bool is_unfinished_dhcp(const Frame& frame) {
    const FrameOffload& offload = frame.offload;
    if (!offload.needs_checksum || offload.segmentation != Segmentation::kNone ||
        offload.checksum_offset != kUdpChecksumOffset || frame.bytes > kDhcpBytesMax) {
        return false;
    }
    std::array<std::byte, kHeadersBytesMax> front;
    const auto bytes = std::span(front).first(copy_front(frame, front));
    const auto layout = find_layout(bytes);
    if (!layout || layout->protocol != kUdpProtocol) {
        return false;
    }
    const uint16_t source = read_be16(bytes, layout->transport_start);
    return source == (layout->network == NetworkKind::kIp4 ? kDhcp4ServerPort : kDhcp6ServerPort);
}

void finish_checksum(std::span<std::byte> frame, FrameOffload& offload) {
    const size_t at = size_t{offload.checksum_start} + offload.checksum_offset;
    OUTRIGGER_ASSERT(at + 2 <= frame.size());
    const uint16_t sum = finish_sum(add_to_sum(0, frame.subspan(offload.checksum_start)));
    // Of UDP 0 would say that there is none; 0xffff is the same number.
    store_sum(frame,
              at,
              offload.checksum_offset == kUdpChecksumOffset && sum == 0 ? uint16_t{0xffff} : sum);
    offload.needs_checksum = false;
}

bool write_checksums(std::span<std::byte> frame, const PacketLayout& layout) {
    const size_t at = layout.network_start;
    const size_t bytes = layout.network == NetworkKind::kIp4
                             ? read_be16(frame, at + kIp4LengthOffset)
                             : kIp6HeaderBytes + read_be16(frame, at + kIp6LengthOffset);
    if (bytes > frame.size() - at || at + bytes < layout.payload_start) {
        return false;
    }
    const auto packet = frame.first(at + bytes);
    write_network_length(packet, layout);
    write_transport_checksum(packet, layout);
    return true;
}

void begin_checksums(std::span<std::byte> frame, const PacketLayout& layout) {
    write_network_length(frame, layout);
    const size_t transport_bytes = frame.size() - layout.transport_start;
    store_sum(frame,
              layout.transport_start + kTcpChecksumOffset,
              fold_sum(pseudo_header_sum(frame, layout, transport_bytes)));
}

Result<void, DropReason> finish_giant(std::span<std::byte> frame, FrameOffload& offload) {
    const auto layout = find_layout(frame.first(std::min(frame.size(), kHeadersBytesMax)));
    if (!layout || !is_of_kind(*layout, offload.segmentation) ||
        !fits_in_ip(frame.size(), *layout)) {
        return failure(DropReason::kSegmentHeaders);
    }
    write_network_length(frame, *layout);
    write_transport_checksum(frame, *layout);
    offload = {};
    return {};
}

Result<Segmenter, DropReason> Segmenter::create(std::span<const std::byte> frame,
                                                const FrameOffload& offload) {
    const auto layout = find_layout(frame.first(std::min(frame.size(), kHeadersBytesMax)));
    if (!layout || !is_of_kind(*layout, offload.segmentation)) {
        return failure(DropReason::kSegmentHeaders);
    }
    Segmenter made;
    made.frame_ = frame;
    made.layout_ = *layout;
    made.each_ = offload.segment_bytes;
    const size_t payload = frame.size() - layout->payload_start;
    // A frame without payload is one segment.
    made.count_ = std::max<size_t>(1, (payload + made.each_ - 1) / made.each_);
    const size_t largest = layout->payload_start + std::min(payload, made.each_);
    if (made.count_ > kSegmentsMax || !fits_in_ip(largest, *layout)) {
        return failure(DropReason::kSegmentSize);
    }
    return made;
}

size_t Segmenter::bytes_left() const {
    if (is_done()) {
        return 0;
    }
    const size_t payload = frame_.size() - layout_.payload_start - next_ * each_;
    return payload + (count_ - next_) * layout_.payload_start;
}

size_t Segmenter::write_next(std::span<std::byte> out) {
    const size_t begin = layout_.payload_start + next_ * each_;
    const size_t count = std::min(each_, frame_.size() - begin);
    const size_t bytes = layout_.payload_start + count;
    OUTRIGGER_ASSERT(!is_done() && bytes <= out.size());
    const auto segment = out.first(bytes);
    std::ranges::copy(frame_.first(layout_.payload_start), segment.begin());
    std::ranges::copy(frame_.subspan(begin, count), segment.subspan(layout_.payload_start).begin());
    fix_network(segment);
    if (layout_.protocol == kTcpProtocol) {
        fix_tcp(segment, next_ + 1 == count_);
    } else {
        write_be16(segment,
                   layout_.transport_start + 4,
                   static_cast<uint16_t>(bytes - layout_.transport_start));
    }
    write_transport_checksum(segment, layout_);
    ++next_;
    return bytes;
}

void Segmenter::fix_network(std::span<std::byte> segment) const {
    if (layout_.network == NetworkKind::kIp4) {
        const size_t at = layout_.network_start + kIp4IdentityOffset;
        write_be16(segment, at, static_cast<uint16_t>(read_be16(segment, at) + next_));
    }
    write_network_length(segment, layout_);
}

void Segmenter::fix_tcp(std::span<std::byte> segment, bool is_last) const {
    const size_t at = layout_.transport_start;
    const size_t sequence_at = at + kTcpSequenceOffset;
    write_be32(segment,
               sequence_at,
               static_cast<uint32_t>(read_be32(segment, sequence_at) + next_ * each_));
    std::byte& flags = segment[at + kTcpFlagsOffset];
    if (!is_last) {
        flags &= ~(kTcpFin | kTcpPush);
    }
    if (next_ > 0) {
        flags &= ~kTcpCongestionReduced;
    }
}

}  // namespace outrigger::net
