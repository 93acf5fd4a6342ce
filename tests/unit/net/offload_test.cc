// SPDX-License-Identifier: Apache-2.0
// Checksums and segments against a model of their own (tests/support/net_frames.h).
#include "devices/net/offload.h"

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "devices/net/checksum.h"
#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::FrameOptions;
using testing::make_frame;
using testing::make_payload;
using testing::read_frame;
using testing::ReadFrame;

std::span<std::byte> bytes_of(std::string& text) {
    return std::as_writable_bytes(std::span(text));
}

FrameOffload offload_of(const FrameOptions& options, uint16_t segment_bytes) {
    return {.needs_checksum = true,
            .segmentation = options.udp   ? Segmentation::kUdp
                            : options.ip6 ? Segmentation::kTcp6
                                          : Segmentation::kTcp4,
            .segment_bytes = segment_bytes,
            .checksum_start = static_cast<uint16_t>(testing::transport_start_of(options)),
            .checksum_offset = static_cast<uint16_t>(options.udp ? 6 : 16)};
}

/// Cuts a frame of `payload`; every segment is right by itself.
std::vector<ReadFrame> cut(std::string_view payload, FrameOptions options, uint16_t segment_bytes) {
    options.partial_checksum = true;
    std::string frame = make_frame(payload, options);
    auto segmenter = Segmenter::create(bytes_of(frame), offload_of(options, segment_bytes));
    std::vector<ReadFrame> segments;
    if (!segmenter) {
        ADD_FAILURE() << describe(segmenter.error());
        return segments;
    }
    size_t bytes = segmenter->bytes_left();
    while (!segmenter->is_done()) {
        std::string out(segmenter->segment_bytes_max(), '\0');
        out.resize(segmenter->write_next(bytes_of(out)));
        bytes -= out.size();
        EXPECT_EQ(segmenter->bytes_left(), bytes);
        const auto read = read_frame(out);
        if (!read) {
            ADD_FAILURE() << "segment " << segments.size() << " is wrong";
            return segments;
        }
        segments.push_back(*read);
    }
    EXPECT_EQ(bytes, 0U);
    return segments;
}

std::string joined(const std::vector<ReadFrame>& segments) {
    std::string all;
    for (const ReadFrame& segment : segments) {
        all += segment.payload;
    }
    return all;
}

struct Shape {
    const char* name;
    FrameOptions options;
};

class Shapes : public ::testing::TestWithParam<Shape> {};

TEST_P(Shapes, ChecksumIsFinished) {
    for (const size_t bytes : {0U, 1U, 2U, 3U, 777U, 1448U}) {
        FrameOptions options = GetParam().options;
        const std::string whole = make_frame(make_payload(bytes), options);
        options.partial_checksum = true;
        std::string frame = make_frame(make_payload(bytes), options);
        FrameOffload offload = offload_of(options, 0);
        finish_checksum(bytes_of(frame), offload);
        EXPECT_EQ(frame, whole) << bytes;
        EXPECT_FALSE(offload.needs_checksum);
    }
}

TEST_P(Shapes, SegmentsAreWholePacketsOfThePayloadInOrder) {
    const std::string payload = make_payload(10'000);
    for (const int each_bytes : {536, 1448, 1001}) {
        const auto each = static_cast<uint16_t>(each_bytes);
        const auto segments = cut(payload, GetParam().options, each);
        ASSERT_EQ(segments.size(), (payload.size() + each - 1) / each);
        EXPECT_EQ(joined(segments), payload);
        for (size_t i = 0; i + 1 < segments.size(); ++i) {
            EXPECT_EQ(segments[i].payload.size(), each);
        }
    }
}

TEST_P(Shapes, GiantIsOneWholePacket) {
    FrameOptions options = GetParam().options;
    if (options.udp) {
        return;  // nobody takes those whole
    }
    const std::string payload = make_payload(30'001);
    options.partial_checksum = true;
    std::string frame = make_frame(payload, options);
    FrameOffload offload = offload_of(options, 1448);
    ASSERT_TRUE(finish_giant(bytes_of(frame), offload));
    const auto read = read_frame(frame);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->payload, payload);
    EXPECT_EQ(offload.segmentation, Segmentation::kNone);
    EXPECT_FALSE(offload.needs_checksum);
}

INSTANTIATE_TEST_SUITE_P(
    Offload,
    Shapes,
    ::testing::Values(Shape{"tcp4", {}},
                      Shape{"tcp6", {.ip6 = true}},
                      Shape{"udp4", {.udp = true}},
                      Shape{"udp6", {.ip6 = true, .udp = true}},
                      Shape{"tcp4vlan", {.vlan_tags = 1}},
                      Shape{"tcp6twotags", {.ip6 = true, .vlan_tags = 2}},
                      Shape{"tcp4options", {.ip_option_bytes = 40, .tcp_option_bytes = 40}},
                      Shape{"tcp6options", {.ip6 = true, .tcp_option_bytes = 12}},
                      Shape{"udp6hopbyhop", {.ip6 = true, .udp = true, .hop_by_hop = true}},
                      Shape{"tcp6twoextensions",
                            {.ip6 = true, .hop_by_hop = true, .destination_option_bytes = 24}}),
    [](const auto& row) { return row.param.name; });

TEST(Segmenter, TcpCountsBytesAndKeepsEndsForTheLastSegment) {
    // FIN, PSH, ACK and CWR.
    const auto segments = cut(
        make_payload(2500), {.sequence = 0xffff'fe00, .tcp_flags = 0x99, .identity = 0xffff}, 1000);
    ASSERT_EQ(segments.size(), 3U);
    EXPECT_EQ(segments[0].sequence, 0xffff'fe00U);
    EXPECT_EQ(segments[1].sequence, 0xffff'fe00U + 1000);
    EXPECT_EQ(segments[2].sequence, 0xffff'fe00U + 2000);
    EXPECT_EQ(segments[0].tcp_flags, 0x90);
    EXPECT_EQ(segments[1].tcp_flags, 0x10);
    EXPECT_EQ(segments[2].tcp_flags, 0x19);
    EXPECT_EQ(segments[0].identity, 0xffff);
    EXPECT_EQ(segments[1].identity, 0);
}

TEST(Segmenter, FrameThatFitsIsOneSegment) {
    EXPECT_EQ(cut(make_payload(1000), {}, 1000).size(), 1U);
    EXPECT_EQ(cut(make_payload(1001), {}, 1000).size(), 2U);
    EXPECT_EQ(cut("", {}, 1000).size(), 1U);
}

TEST(Segmenter, LargestFrameIsCut) {
    const size_t payload = 65535 - 40;
    EXPECT_EQ(joined(cut(make_payload(payload), {}, 48)).size(), payload);
}

DropReason refusal(std::string frame, FrameOptions options, uint16_t segment_bytes) {
    const auto made = Segmenter::create(bytes_of(frame), offload_of(options, segment_bytes));
    EXPECT_FALSE(made);
    return made ? DropReason::kQueueFull : made.error();
}

TEST(Segmenter, TooManySegmentsAreRefused) {
    const std::string frame = make_frame(make_payload(kSegmentsMax + 1), {});
    EXPECT_EQ(refusal(frame, {}, 1), DropReason::kSegmentSize);
}

TEST(Segmenter, OtherProtocolThanAnnouncedIsRefused) {
    const std::string payload = make_payload(3000);
    EXPECT_EQ(refusal(make_frame(payload, {.udp = true}), {}, 1000), DropReason::kSegmentHeaders);
    EXPECT_EQ(refusal(make_frame(payload), {.udp = true}, 1000), DropReason::kSegmentHeaders);
    EXPECT_EQ(refusal(make_frame(payload), {.ip6 = true}, 1000), DropReason::kSegmentHeaders);
    EXPECT_EQ(refusal(make_frame(payload, {.ip6 = true}), {}, 1000), DropReason::kSegmentHeaders);
}

TEST(Segmenter, HeadersThatEndBeyondTheFrameAreRefused) {
    const std::string whole = make_frame("");
    for (size_t bytes = 14; bytes < whole.size(); ++bytes) {
        EXPECT_EQ(refusal(whole.substr(0, bytes), {}, 1000), DropReason::kSegmentHeaders) << bytes;
    }
}

TEST(Segmenter, HeaderLengthsThatLieAreRefused) {
    std::string ip = make_frame(make_payload(100));
    ip[14] = '\x41';  // IPv4 header of 4 bytes
    EXPECT_EQ(refusal(ip, {}, 10), DropReason::kSegmentHeaders);
    std::string tcp = make_frame(make_payload(100));
    tcp[14 + 20 + 12] = '\x40';  // TCP header of 16 bytes
    EXPECT_EQ(refusal(tcp, {}, 10), DropReason::kSegmentHeaders);
    std::string fragment = make_frame(make_payload(100));
    fragment[14 + 6] = '\x20';  // more fragments
    EXPECT_EQ(refusal(fragment, {}, 10), DropReason::kSegmentHeaders);
}

TEST(Segmenter, EndlessExtensionHeadersAreRefused) {
    std::string frame = make_frame("", {.ip6 = true});
    frame.resize(14 + 40);
    frame[14 + 6] = '\0';
    frame += std::string(4096, '\0');  // hop-by-hop headers of 8 bytes, one behind the other
    EXPECT_EQ(refusal(frame, {.ip6 = true}, 10), DropReason::kSegmentHeaders);
}

// --- Fragments ---------------------------------------------------------------------------------

FrameOffload fragments_of(const FrameOptions& options, uint16_t bytes) {
    FrameOffload offload = offload_of(options, bytes);
    offload.segmentation = Segmentation::kFragments;
    return offload;
}

/// Of a datagram as a driver leaves it.
std::vector<std::string> fragment(const std::string& payload,
                                  FrameOptions options,
                                  uint16_t fragment_bytes) {
    options.udp = true;
    options.partial_checksum = true;
    std::string frame = make_frame(payload, options);
    auto segmenter = Segmenter::create(bytes_of(frame), fragments_of(options, fragment_bytes));
    std::vector<std::string> fragments;
    while (segmenter && !segmenter->is_done()) {
        const size_t left = segmenter->bytes_left();
        std::string out(segmenter->segment_bytes_max(), '\0');
        out.resize(segmenter->write_next(bytes_of(out)));
        EXPECT_EQ(left - segmenter->bytes_left(), out.size());
        fragments.push_back(std::move(out));
    }
    return fragments;
}

TEST(Fragments, OfIp4AreThoseOfTheWholeDatagram) {
    const std::string payload = make_payload(5001);
    for (const FrameOptions& options : {FrameOptions{.udp = true},
                                        FrameOptions{.udp = true, .ip_option_bytes = 8},
                                        FrameOptions{.udp = true, .vlan_tags = 1},
                                        FrameOptions{.udp = true, .vlan_tags = 2}}) {
        const std::string whole = make_frame(payload, options);
        const std::vector<std::string> fragments = fragment(payload, options, 1480);
        ASSERT_EQ(fragments.size(), 4U);
        for (size_t i = 0; i < fragments.size(); ++i) {
            const size_t end = std::min<size_t>((i + 1) * 1480, 5009);
            EXPECT_EQ(fragments[i], testing::fragment_of(whole, i * 1480, end)) << i;
        }
    }
}

/// What is before the fragment's own header is that of the datagram, but for the length, and for
/// the last header, at `last_at`, which says that such a one comes.
std::string headers_before_fragment(const std::string& whole,
                                    const FrameOptions& options,
                                    size_t last_at,
                                    size_t fragment_bytes) {
    const size_t network = 14 + 4 * static_cast<size_t>(options.vlan_tags);
    std::string headers = whole.substr(0, testing::transport_start_of(options));
    write_be16(
        bytes_of(headers), network + 4, static_cast<uint16_t>(fragment_bytes - network - 40));
    headers[last_at] = 44;
    return headers;
}

/// `last_at`: of the byte that says what comes behind the last header.
void expect_fragments_of_ip6(FrameOptions options, size_t last_at) {
    options.ip6 = true;
    options.udp = true;
    const std::string payload = make_payload(3000);
    const std::string whole = make_frame(payload, options);
    const size_t start = testing::transport_start_of(options);
    const std::vector<std::string> fragments = fragment(payload, options, 1448);
    ASSERT_EQ(fragments.size(), 3U);
    std::string datagram;
    for (const std::string& each : fragments) {
        const bool is_last = &each == &fragments.back();
        EXPECT_EQ(each.substr(0, start),
                  headers_before_fragment(whole, options, last_at, each.size()));
        EXPECT_EQ(each[start], 17);
        EXPECT_EQ(read_be16(std::as_bytes(std::span(each)), start + 2),
                  datagram.size() | (is_last ? 0U : 1U));
        EXPECT_EQ(each.substr(start + 4, 4), fragments.front().substr(start + 4, 4));
        datagram += each.substr(start + 8);
    }
    EXPECT_EQ(datagram, whole.substr(start));
    const auto others = fragment(payload, options, 1448);
    EXPECT_NE(others.front().substr(start + 4, 4), fragments.front().substr(start + 4, 4));
}

TEST(Fragments, OfIp6HaveAHeaderOfTheirOwn) {
    expect_fragments_of_ip6({}, 14 + 6);
}

TEST(Fragments, OfIp6HaveItBehindExtensionHeaders) {
    expect_fragments_of_ip6({.hop_by_hop = true}, 14 + 40);
    expect_fragments_of_ip6({.destination_option_bytes = 24}, 14 + 40);
    expect_fragments_of_ip6({.hop_by_hop = true, .destination_option_bytes = 24}, 14 + 40 + 8);
}

TEST(Fragments, OfIp6HaveItBehindTags) {
    expect_fragments_of_ip6({.vlan_tags = 1}, 18 + 6);
    expect_fragments_of_ip6({.vlan_tags = 2, .hop_by_hop = true}, 22 + 40);
}

TEST(Fragments, DatagramThatFitsStaysWhole) {
    for (const bool ip6 : {false, true}) {
        const FrameOptions options{.ip6 = ip6, .udp = true};
        const std::string payload = make_payload(1440);
        EXPECT_EQ(fragment(payload, options, 1448),
                  std::vector<std::string>{make_frame(payload, options)});
        EXPECT_EQ(fragment(payload + "x", options, 1448).size(), 2U);
    }
}

TEST(Fragments, LengthOfTheDatagramIsNotBelieved) {
    const FrameOptions options{.udp = true, .partial_checksum = true};
    std::string frame = make_frame(make_payload(3000), options);
    frame.replace(14 + 20 + 4, 2, std::string("\xff\xff", 2));
    auto segmenter = Segmenter::create(bytes_of(frame), fragments_of(options, 1480));
    ASSERT_TRUE(segmenter);
    std::string out(segmenter->segment_bytes_max(), '\0');
    out.resize(segmenter->write_next(bytes_of(out)));
    EXPECT_EQ(out, testing::fragment_of(make_frame(make_payload(3000), {.udp = true}), 0, 1480));
}

TEST(Fragments, ThatCannotBeAreRefused) {
    const FrameOptions udp{.udp = true, .partial_checksum = true};
    std::string frame = make_frame(make_payload(12'000), udp);
    for (const uint16_t bytes :
         std::array<uint16_t, 4>{0, 7, 12, 8}) {  // of 8 bytes they are too many
        EXPECT_FALSE(Segmenter::create(bytes_of(frame), fragments_of(udp, bytes))) << bytes;
    }
    EXPECT_TRUE(Segmenter::create(bytes_of(frame), fragments_of(udp, 16)));
    std::string tcp = make_frame(make_payload(3000), {.partial_checksum = true});
    EXPECT_FALSE(Segmenter::create(bytes_of(tcp), fragments_of(udp, 1480)));
    std::string piece = testing::fragment_of(frame, 0, 4000);
    EXPECT_FALSE(Segmenter::create(bytes_of(piece), fragments_of(udp, 1480)));
    std::string longest = make_frame(make_payload(65'507), udp);
    EXPECT_TRUE(Segmenter::create(bytes_of(longest), fragments_of(udp, 1480)));
    longest += 'x';
    EXPECT_FALSE(Segmenter::create(bytes_of(longest), fragments_of(udp, 1480)));
}

// They are written into room for one frame, and those of IPv6 have a header more.
TEST(Fragments, ThatAreLongerThanAFrameAreRefused) {
    const FrameOptions udp{.ip6 = true, .udp = true, .partial_checksum = true};
    const size_t headers = testing::transport_start_of(udp) + 8;
    constexpr uint16_t kLongest = 65'488;  // with the header of 8 bytes
    for (size_t bytes = kFrameBytesMax - 8; bytes <= kFrameBytesMax; ++bytes) {
        std::string frame = make_frame(make_payload(bytes - headers), udp);
        const size_t datagram = bytes - headers + 8;
        for (const uint16_t each : {uint16_t{kLongest}, uint16_t{kLongest + 8}}) {
            auto segmenter = Segmenter::create(bytes_of(frame), fragments_of(udp, each));
            const bool is_whole = datagram <= each;
            const size_t first = headers - 8 + (is_whole ? datagram : size_t{8} + each);
            EXPECT_EQ(segmenter.has_value(), first <= kFrameBytesMax) << bytes << " " << each;
            std::string out(kFrameBytesMax, '\0');
            while (segmenter && first <= out.size() && !segmenter->is_done()) {
                EXPECT_LE(segmenter->write_next(bytes_of(out)), out.size());
            }
        }
    }
}

TEST(Giant, LongerThanAnyPacketIsRefused) {
    FrameOptions options;
    std::string frame = make_frame(make_payload(65535 - 40 + 1), options);
    FrameOffload offload = offload_of(options, 1448);
    EXPECT_FALSE(finish_giant(bytes_of(frame), offload));
}

TEST(Checksum, OfUdpIsNeverZero) {
    // A payload that makes the sum 0xffff, and so the checksum 0.
    FrameOptions options{.udp = true};
    const std::string probe = make_frame(std::string(2, '\0'), options);
    const std::string sum = probe.substr(testing::transport_start_of(options) + 6, 2);
    options.partial_checksum = true;
    std::string frame = make_frame(sum, options);
    FrameOffload offload = offload_of(options, 0);
    finish_checksum(bytes_of(frame), offload);
    EXPECT_EQ(frame.substr(testing::transport_start_of(options) + 6, 2), "\xff\xff");
}

TEST(Checksum, ExampleOfTheRfc) {
    // RFC 1071, 3.
    const std::string bytes("\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 8);
    const uint16_t folded = fold_sum(add_to_sum(0, std::as_bytes(std::span(bytes))));
    std::string stored(2, '\0');
    std::memcpy(stored.data(), &folded, sizeof folded);
    EXPECT_EQ(stored, "\xdd\xf2");
}

TEST(IsTaken, AsksForEveryThingThatIsLeftOut) {
    const Offloads all{.checksum = true, .tcp4 = true, .tcp6 = true, .ecn = true, .udp4 = true};
    EXPECT_TRUE(is_taken({}, false, {}));
    EXPECT_FALSE(is_taken({.needs_checksum = true}, false, {}));
    EXPECT_TRUE(is_taken({.needs_checksum = true}, false, {.checksum = true}));
    const FrameOffload tcp{.needs_checksum = true, .segmentation = Segmentation::kTcp4};
    EXPECT_TRUE(is_taken(tcp, false, all));
    EXPECT_FALSE(is_taken(tcp, false, {.checksum = true, .tcp6 = true}));
    FrameOffload ecn = tcp;
    ecn.ecn = true;
    EXPECT_FALSE(is_taken(ecn, false, {.checksum = true, .tcp4 = true}));
    const FrameOffload udp{.needs_checksum = true, .segmentation = Segmentation::kUdp};
    EXPECT_TRUE(is_taken(udp, false, all));
    EXPECT_FALSE(is_taken(udp, true, all));
}

}  // namespace
}  // namespace outrigger::net
