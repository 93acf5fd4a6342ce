// SPDX-License-Identifier: Apache-2.0
#include "devices/net/offload.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <random>

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
constexpr size_t kIp4FragmentOffset = 6;
constexpr uint16_t kIp4MoreFragments = 0x2000;
constexpr size_t kIp4ChecksumOffset = 10;
constexpr size_t kIp6LengthOffset = 4;
constexpr size_t kIp6NextHeaderOffset = 6;
constexpr size_t kIp6HeaderBytes = 40;
constexpr size_t kFragmentHeaderBytes = 8;
constexpr std::byte kFragmentHeader{44};
constexpr size_t kUdpLengthOffset = 4;

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
        case Segmentation::kFragments:
            return layout.protocol == kUdpProtocol;
    }
    return false;
}

/// Drawn before anything is confined.
const uint32_t kFirstIdentity = std::random_device{}();

/// RFC 7739: what does not come again soon. Who sees one may guess the next: the daemon's receivers
/// are not kept apart by them, and what is spoofed into a datagram its checksum has to tell.
uint32_t next_fragment_identity() {
    static std::atomic<uint32_t> count = 0;
    return (kFirstIdentity ^ count.fetch_add(1, std::memory_order_relaxed)) * 0x9e37'79b1U;
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
        case Segmentation::kFragments:
            return taker.fragments;
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
    made.start_ = layout->payload_start;
    if (offload.segmentation == Segmentation::kFragments) {
        if (!fits_in_ip(frame.size(), *layout) || made.each_ == 0 || made.each_ % 8 != 0) {
            return failure(DropReason::kSegmentSize);
        }
        made.start_ = layout->transport_start;
        made.begin_fragments();
    }
    const size_t payload = frame.size() - made.start_;
    // A frame without payload is one segment.
    made.count_ = std::max<size_t>(1, (payload + made.each_ - 1) / made.each_);
    if (made.is_fragmented_ && made.count_ > 1 && layout->network == NetworkKind::kIp6) {
        made.more_ = kFragmentHeaderBytes;
    }
    const size_t largest = made.start_ + made.more_ + std::min(payload, made.each_);
    // With the header of a fragment one may be longer than what it was cut from.
    if (made.count_ > kSegmentsMax || largest > kFrameBytesMax || !fits_in_ip(largest, *layout)) {
        return failure(DropReason::kSegmentSize);
    }
    return made;
}

/// The length and the checksum of UDP are those of the whole datagram, which the first fragment
/// has.
void Segmenter::begin_fragments() {
    is_fragmented_ = true;
    const auto datagram = frame_.subspan(layout_.transport_start);
    std::ranges::copy(datagram.first(udp_header_.size()), udp_header_.begin());
    write_be16(udp_header_, kUdpLengthOffset, static_cast<uint16_t>(datagram.size()));
    write_be16(udp_header_, kUdpChecksumOffset, 0);
    uint64_t sum = pseudo_header_sum(frame_, layout_, datagram.size());
    sum = add_to_sum(sum, udp_header_);
    const uint16_t folded = finish_sum(add_to_sum(sum, datagram.subspan(udp_header_.size())));
    store_sum(udp_header_, kUdpChecksumOffset, folded == 0 ? uint16_t{0xffff} : folded);
    if (layout_.network == NetworkKind::kIp6) {
        identity_ = next_fragment_identity();
        // The last header before UDP says what comes next.
        next_header_at_ = layout_.network_start + kIp6NextHeaderOffset;
        for (size_t at = layout_.network_start + kIp6HeaderBytes; at < layout_.transport_start;) {
            next_header_at_ = at;
            at += size_t{8} * (std::to_integer<size_t>(frame_[at + 1]) + 1);
        }
    }
}

size_t Segmenter::bytes_left() const {
    if (is_done()) {
        return 0;
    }
    const size_t payload = frame_.size() - start_ - next_ * each_;
    return payload + (count_ - next_) * (start_ + more_);
}

size_t Segmenter::write_next(std::span<std::byte> out) {
    const size_t begin = start_ + next_ * each_;
    const size_t count = std::min(each_, frame_.size() - begin);
    const size_t bytes = start_ + more_ + count;
    OUTRIGGER_ASSERT(!is_done() && bytes <= out.size());
    const auto segment = out.first(bytes);
    std::ranges::copy(frame_.first(start_), segment.begin());
    std::ranges::copy(frame_.subspan(begin, count), segment.subspan(start_ + more_).begin());
    if (is_fragmented_) {
        fix_fragment(segment);
    } else {
        fix_network(segment);
        if (layout_.protocol == kTcpProtocol) {
            fix_tcp(segment, next_ + 1 == count_);
        } else {
            write_be16(segment,
                       layout_.transport_start + kUdpLengthOffset,
                       static_cast<uint16_t>(bytes - layout_.transport_start));
        }
        write_transport_checksum(segment, layout_);
    }
    ++next_;
    return bytes;
}

/// RFC 791, 3.2; RFC 8200, 4.5.
void Segmenter::fix_fragment(std::span<std::byte> segment) const {
    const size_t at = layout_.network_start;
    const size_t offset = next_ * each_;
    const bool is_last = next_ + 1 == count_;
    if (next_ == 0) {
        std::ranges::copy(udp_header_, segment.subspan(start_ + more_).begin());
    }
    if (count_ > 1 && layout_.network == NetworkKind::kIp4) {
        write_be16(segment,
                   at + kIp4FragmentOffset,
                   static_cast<uint16_t>(offset / 8 | (is_last ? 0 : kIp4MoreFragments)));
    } else if (count_ > 1) {
        segment[next_header_at_] = kFragmentHeader;
        write_be16(segment, start_, uint16_t{kUdpProtocol} << 8);
        write_be16(segment, start_ + 2, static_cast<uint16_t>(offset | (is_last ? 0U : 1U)));
        write_be32(segment, start_ + 4, identity_);
    }
    write_network_length(segment, layout_);
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
