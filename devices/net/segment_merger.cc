// SPDX-License-Identifier: Apache-2.0
#include "devices/net/segment_merger.h"

#include <algorithm>

#include "devices/net/offload.h"

namespace outrigger::net {
namespace {

constexpr size_t kIp4HeaderBytes = 20;
constexpr size_t kIp6HeaderBytes = 40;
constexpr size_t kIpBytesMax = 0xffff;
/// More bring little, and receivers have bounds of their own.
constexpr size_t kMergedMax = 64;

constexpr uint8_t kAck = 0x10;
constexpr uint8_t kPush = 0x08;
constexpr size_t kTcpFlagsOffset = 13;

/// A field of a header that says something of the connection, and not of one segment.
struct Field {
    size_t at = 0;
    size_t bytes = 0;
};

// RFC 791: all but the length, the identity and the checksum. RFC 8200: all but the length.
constexpr Field kIp4Fields[] = {{0, 2}, {6, 4}, {12, 8}};
constexpr Field kIp6Fields[] = {{0, 4}, {6, 34}};
// RFC 9293: ports; acknowledgement and length of the header; window; urgent pointer.
constexpr Field kTcpFields[] = {{0, 4}, {8, 5}, {14, 2}, {18, 2}};
constexpr size_t kTcpFixedBytes = 20;

/// Of two frames with this layout.
bool is_same_connection(std::span<const std::byte> a,
                        std::span<const std::byte> b,
                        const PacketLayout& layout) {
    const auto same = [&](size_t at, size_t bytes) {
        return std::ranges::equal(a.subspan(at, bytes), b.subspan(at, bytes));
    };
    const auto all_same = [&](std::span<const Field> fields, size_t start) {
        return std::ranges::all_of(
            fields, [&](const Field& field) { return same(start + field.at, field.bytes); });
    };
    const bool is_ip4 = layout.network == NetworkKind::kIp4;
    const size_t options = layout.transport_start + kTcpFixedBytes;
    return same(0, layout.network_start) &&
           all_same(is_ip4 ? std::span<const Field>(kIp4Fields) : kIp6Fields,
                    layout.network_start) &&
           all_same(kTcpFields, layout.transport_start) &&
           same(options, layout.payload_start - options);
}

bool is_same_layout(const PacketLayout& a, const PacketLayout& b) {
    return a.network == b.network && a.network_start == b.network_start &&
           a.transport_start == b.transport_start && a.payload_start == b.payload_start;
}

}  // namespace

std::optional<SegmentMerger::Segment> SegmentMerger::find_segment(
    std::span<const std::byte> frame) {
    const auto layout = find_layout(frame.first(std::min(frame.size(), kHeadersBytesMax)));
    if (!layout || layout->protocol != kTcpProtocol || layout->payload_start >= frame.size()) {
        return std::nullopt;
    }
    const size_t network = layout->network_start;
    const bool is_ip4 = layout->network == NetworkKind::kIp4;
    // Without options or extension headers, and nothing behind the packet.
    if (layout->transport_start != network + (is_ip4 ? kIp4HeaderBytes : kIp6HeaderBytes) ||
        network + (is_ip4 ? size_t{read_be16(frame, network + 2)}
                          : kIp6HeaderBytes + read_be16(frame, network + 4)) !=
            frame.size()) {
        return std::nullopt;
    }
    const auto flags = std::to_integer<uint8_t>(frame[layout->transport_start + kTcpFlagsOffset]);
    if ((flags & ~kPush) != kAck) {
        return std::nullopt;
    }
    return Segment{.layout = *layout,
                   .sequence = read_be32(frame, layout->transport_start + 4),
                   .payload_bytes = frame.size() - layout->payload_start,
                   .is_pushed = (flags & kPush) != 0};
}

bool SegmentMerger::is_taken(const PacketLayout& layout) const {
    return taken_.checksum && (layout.network == NetworkKind::kIp4 ? taken_.tcp4 : taken_.tcp6);
}

bool SegmentMerger::push(std::span<const std::byte> frame) {
    const auto segment = find_segment(frame);
    if (segment && open_ && add(frame, *segment)) {
        return true;
    }
    open_.reset();
    // SAFETY: a frame that is sent is only read.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast)
    const iovec piece{.iov_base = const_cast<std::byte*>(frame.data()), .iov_len = frame.size()};
    if (!queue_.push({.pieces = std::span(&piece, 1),
                      .bytes = frame.size(),
                      .offload = {.checksum_valid = true}})) {
        return false;
    }
    if (segment && is_taken(segment->layout)) {
        open_ =
            Open{.layout = segment->layout,
                 .next_sequence = segment->sequence + static_cast<uint32_t>(segment->payload_bytes),
                 .segment_bytes = segment->payload_bytes,
                 .segments = 1};
    }
    return true;
}

bool SegmentMerger::add(std::span<const std::byte> frame, const Segment& segment) {
    const std::span<const std::byte> last = queue_.newest();
    if (last.empty() || !is_taken(segment.layout) ||
        !is_same_layout(open_->layout, segment.layout) ||
        segment.sequence != open_->next_sequence || open_->segments >= kMergedMax ||
        last.size() - segment.layout.network_start + segment.payload_bytes > kIpBytesMax ||
        !is_same_connection(last, frame, segment.layout)) {
        return false;
    }
    const PacketLayout& layout = segment.layout;
    // Where it is cut again all but the last are as long as the longest was, which the guest takes.
    const size_t segment_bytes = std::max(open_->segment_bytes, segment.payload_bytes);
    const std::span<std::byte> whole = queue_.extend_newest(
        frame.subspan(layout.payload_start),
        {.needs_checksum = true,
         .segmentation =
             layout.network == NetworkKind::kIp4 ? Segmentation::kTcp4 : Segmentation::kTcp6,
         .segment_bytes = static_cast<uint16_t>(segment_bytes),
         .checksum_start = static_cast<uint16_t>(layout.transport_start),
         .checksum_offset = kTcpChecksumOffset});
    if (whole.empty()) {
        return false;
    }
    if (segment.is_pushed) {
        whole[layout.transport_start + kTcpFlagsOffset] |= std::byte{kPush};
    }
    begin_checksums(whole, layout);
    open_->next_sequence += static_cast<uint32_t>(segment.payload_bytes);
    open_->segment_bytes = segment_bytes;
    ++open_->segments;
    return true;
}

}  // namespace outrigger::net
