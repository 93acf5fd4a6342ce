// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: what is done to a frame of a guest before a peer that takes no offloads gets it.
/// The script is the header before a frame, and the frame. A checksum that is finished changes its
/// field and nothing else, segments are whole packets with right lengths and checksums which come
/// to the payload again, and what a guard has let through it lets through when it is finished.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/feature_set.h"

#include "devices/net/address_table.h"
#include "devices/net/offload.h"
#include "devices/net/packet_layout.h"
#include "devices/net/sender_guard.h"
#include "devices/net/vnet_header.h"
#include "tests/fuzz/net_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using net::FrameOffload;
using net::NetworkKind;
using net::PacketLayout;
using net::Segmentation;

using Bytes = std::span<const std::byte>;

/// RFC 1071 word by word, as a check of the code that takes several at once.
uint32_t sum_of(Bytes bytes, uint32_t sum = 0) {
    for (size_t i = 0; i < bytes.size(); ++i) {
        const auto byte = std::to_integer<uint32_t>(bytes[i]);
        sum += i % 2 == 0 ? byte << 8 : byte;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/// Of a pseudo header and all of TCP or UDP; 0xffff when its checksum is right.
uint32_t transport_sum(Bytes packet, const PacketLayout& layout) {
    const Bytes addresses = layout.network == NetworkKind::kIp4
                                ? packet.subspan(layout.network_start + 12, 8)
                                : packet.subspan(layout.network_start + 8, 32);
    const auto length = static_cast<uint32_t>(packet.size() - layout.transport_start);
    uint32_t sum = sum_of(addresses, layout.protocol + (length >> 16) + (length & 0xffff));
    return sum_of(packet.subspan(layout.transport_start), sum);
}

void expect_whole_packet(Bytes packet, const PacketLayout& expected) {
    const auto layout = net::find_layout(packet.first(std::min(packet.size(), size_t{256})));
    OUTRIGGER_ASSERT(layout.has_value());
    OUTRIGGER_ASSERT(layout->payload_start == expected.payload_start &&
                     layout->transport_start == expected.transport_start &&
                     layout->protocol == expected.protocol);
    const size_t at = layout->network_start;
    if (layout->network == NetworkKind::kIp4) {
        OUTRIGGER_ASSERT(net::read_be16(packet, at + 2) == packet.size() - at);
        OUTRIGGER_ASSERT(sum_of(packet.subspan(at, layout->transport_start - at)) == 0xffff);
    } else {
        OUTRIGGER_ASSERT(net::read_be16(packet, at + 4) == packet.size() - at - 40);
    }
    OUTRIGGER_ASSERT(transport_sum(packet, *layout) == 0xffff);
}

/// The one station that may send, and any address or only one.
net::SenderGuard make_guard(bool has_addresses) {
    net::SenderRules rules{.stations = {kNetStation}};
    if (has_addresses) {
        rules.addresses = {net::parse_ip_range("10.0.0.7").value(),
                           net::parse_ip_range("2001:db8::/64").value()};
    }
    return net::SenderGuard(std::move(rules));
}

bool is_let_through(const net::SenderGuard& guard, Bytes frame, const FrameOffload& offload) {
    return guard.allows(frame.first(std::min(frame.size(), net::SenderGuard::kFrontBytes)),
                        offload);
}

/// As devices have it, and no more than it may need, so that a sanitizer sees every byte beyond.
size_t room_for_next(const net::Segmenter& segmenter) {
    return std::min({segmenter.segment_bytes_max(), segmenter.bytes_left(), net::kFrameBytesMax});
}

class FrameFuzz final {
  public:
    FrameFuzz(Bytes frame, bool guards_addresses)
        : frame_(frame), guard_(make_guard(guards_addresses)) {}

    void run(const FrameOffload& offload) {
        passed_ = is_let_through(guard_, frame_, offload);
        if (passed_) {
            OUTRIGGER_ASSERT(net::read_station(frame_, 6) == kNetStation);
        }
        if (offload.segmentation == Segmentation::kFragments) {
            fragment(offload);
        } else if (offload.segmentation != Segmentation::kNone) {
            cut(offload);
            make_giant(offload);
        } else if (offload.needs_checksum) {
            finish(offload);
        }
    }

  private:
    [[nodiscard]] std::unique_ptr<std::byte[]> copy() const {
        // Of its own size, so that a sanitizer sees every byte beyond.
        auto bytes = std::make_unique<std::byte[]>(frame_.size());
        std::ranges::copy(frame_, bytes.get());
        return bytes;
    }

    void expect_let_through(Bytes frame) const {
        OUTRIGGER_ASSERT(!passed_ || is_let_through(guard_, frame, {}));
    }

    void finish(FrameOffload offload) {
        const auto bytes = copy();
        const std::span<std::byte> finished(bytes.get(), frame_.size());
        const size_t at = size_t{offload.checksum_start} + offload.checksum_offset;
        const auto expected =
            static_cast<uint16_t>(~sum_of(frame_.subspan(offload.checksum_start)));
        net::finish_checksum(finished, offload);
        OUTRIGGER_ASSERT(!offload.needs_checksum);
        const uint16_t written = net::read_be16(finished, at);
        OUTRIGGER_ASSERT(written == expected || (expected == 0 && written == 0xffff));
        OUTRIGGER_ASSERT(std::ranges::equal(frame_.first(at), finished.first(at)));
        OUTRIGGER_ASSERT(std::ranges::equal(frame_.subspan(at + 2), finished.subspan(at + 2)));
        expect_let_through(finished);
    }

    void cut(const FrameOffload& offload) {
        auto segmenter = net::Segmenter::create(frame_, offload);
        if (!segmenter) {
            return;
        }
        const PacketLayout layout =
            *net::find_layout(frame_.first(std::min<size_t>(frame_.size(), 256)));
        const bool is_tcp = layout.protocol == net::kTcpProtocol;
        const uint32_t sequence =
            is_tcp ? net::read_be32(frame_, layout.transport_start + 4) : uint32_t{0};
        std::vector<std::byte> payload;
        size_t count = 0;
        for (; !segmenter->is_done(); ++count) {
            OUTRIGGER_ASSERT(count < net::kSegmentsMax);
            const size_t room = room_for_next(*segmenter);
            const size_t left = segmenter->bytes_left();
            const auto out = std::make_unique<std::byte[]>(room);
            const size_t written = segmenter->write_next({out.get(), room});
            OUTRIGGER_ASSERT(left - segmenter->bytes_left() == written);
            const Bytes segment(out.get(), written);
            expect_whole_packet(segment, layout);
            if (is_tcp) {
                OUTRIGGER_ASSERT(net::read_be32(segment, layout.transport_start + 4) ==
                                 static_cast<uint32_t>(sequence + payload.size()));
            }
            expect_let_through(segment);
            std::ranges::copy(segment.subspan(layout.payload_start), std::back_inserter(payload));
        }
        OUTRIGGER_ASSERT(count > 0 && segmenter->bytes_left() == 0);
        OUTRIGGER_ASSERT(std::ranges::equal(payload, frame_.subspan(layout.payload_start)));
    }

    /// Together they are the datagram, with the length and the checksum that it has.
    void fragment(const FrameOffload& offload) {
        auto segmenter = net::Segmenter::create(frame_, offload);
        if (!segmenter) {
            return;
        }
        const PacketLayout layout =
            *net::find_layout(frame_.first(std::min<size_t>(frame_.size(), 256)));
        const bool is_ip4 = layout.network == NetworkKind::kIp4;
        const bool is_one = frame_.size() - layout.transport_start <= offload.segment_bytes;
        const size_t start = layout.transport_start + (is_ip4 || is_one ? 0 : 8);
        std::vector<std::byte> whole(
            frame_.begin(), frame_.begin() + static_cast<ptrdiff_t>(layout.transport_start));
        for (size_t count = 0; !segmenter->is_done(); ++count) {
            OUTRIGGER_ASSERT(count < net::kSegmentsMax);
            const size_t room = room_for_next(*segmenter);
            const auto out = std::make_unique<std::byte[]>(room);
            const Bytes piece(out.get(), segmenter->write_next({out.get(), room}));
            OUTRIGGER_ASSERT(piece.size() > start || is_one);
            const size_t at = layout.network_start;
            const size_t offset = whole.size() - layout.transport_start;
            if (is_ip4) {
                OUTRIGGER_ASSERT(net::read_be16(piece, at + 2) == piece.size() - at);
                OUTRIGGER_ASSERT(sum_of(piece.subspan(at, start - at)) == 0xffff);
                OUTRIGGER_ASSERT((net::read_be16(piece, at + 6) & 0x1fffU) == offset / 8);
            } else {
                OUTRIGGER_ASSERT(net::read_be16(piece, at + 4) == piece.size() - at - 40);
                OUTRIGGER_ASSERT(is_one || (net::read_be16(piece, start - 6) & ~7U) == offset);
            }
            std::ranges::copy(piece.subspan(start), std::back_inserter(whole));
        }
        OUTRIGGER_ASSERT(whole.size() == frame_.size());
        OUTRIGGER_ASSERT(net::read_be16(whole, layout.transport_start + 4) ==
                         whole.size() - layout.transport_start);
        OUTRIGGER_ASSERT(transport_sum(whole, layout) == 0xffff);
        OUTRIGGER_ASSERT(std::ranges::equal(Bytes(whole).subspan(layout.payload_start),
                                            frame_.subspan(layout.payload_start)));
    }

    void make_giant(FrameOffload offload) {
        const auto bytes = copy();
        const std::span<std::byte> whole(bytes.get(), frame_.size());
        if (!net::finish_giant(whole, offload)) {
            return;
        }
        OUTRIGGER_ASSERT(offload.segmentation == Segmentation::kNone && !offload.needs_checksum);
        expect_whole_packet(whole,
                            *net::find_layout(frame_.first(std::min<size_t>(frame_.size(), 256))));
        expect_let_through(whole);
    }

    const Bytes frame_;
    const net::SenderGuard guard_;
    bool passed_ = false;
};

void expect_sound(const FrameOffload& offload, size_t frame_bytes, const net::Offloads& allowed) {
    const bool is_cut = offload.segmentation != Segmentation::kNone;
    if (offload.needs_checksum) {
        OUTRIGGER_ASSERT(allowed.checksum && offload.checksum_start >= net::kEthernetHeaderBytes);
        OUTRIGGER_ASSERT(size_t{offload.checksum_start} + offload.checksum_offset + 2 <=
                         frame_bytes);
    }
    OUTRIGGER_ASSERT(!is_cut || (offload.needs_checksum && offload.segment_bytes > 0));
    // Whoever can take all of what was allowed can take it.
    OUTRIGGER_ASSERT(net::is_taken(offload, false, allowed) ||
                     net::is_taken(offload, true, allowed));
}

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger;
    fuzz::ScriptReader script(std::span(data, size));
    const uint8_t options = script.u8();
    const FeatureSet agreed(script.u64());
    net::VnetHeader header;
    const auto raw = script.bytes(sizeof header);
    if (!raw.empty()) {
        std::memcpy(&header, raw.data(), raw.size());
    }
    const size_t more = script.u16();
    const auto front = script.bytes(size);
    const size_t bytes = front.size() + more;
    const auto copy = std::make_unique<std::byte[]>(bytes);
    if (!front.empty()) {
        std::memcpy(copy.get(), front.data(), front.size());
    }
    const std::span<const std::byte> frame(copy.get(), bytes);
    (void)net::is_ip6_frame(frame);
    const auto layout = net::find_layout(frame.first(std::min<size_t>(bytes, 256)));
    if (layout) {
        OUTRIGGER_ASSERT(layout->payload_start <= bytes);
        (void)net::flow_hash(frame, *layout);
    }
    const net::Offloads allowed = net::offloads_of_driver(agreed);
    const auto offload = net::parse_vnet_header(header, bytes, allowed);
    if (offload) {
        fuzz::expect_sound(*offload, bytes, allowed);
        fuzz::FrameFuzz(frame, (options & fuzz::kNetGuardsAddresses) != 0).run(*offload);
    }
    return 0;
}
