// SPDX-License-Identifier: Apache-2.0
#include "devices/net/vnet_header.h"

#include <array>
#include <bit>
#include <cstddef>

#include <gtest/gtest.h>

#include "tests/support/linux_virtio_net.h"

namespace outrigger::net {
namespace {

constexpr uint8_t kUdpSegments = 5;  // VIRTIO 1.3, 5.1.6

constexpr Offloads kAll = {
    .checksum = true, .tcp4 = true, .tcp6 = true, .ecn = true, .udp4 = true, .udp6 = true};

virtio_net_hdr_v1 with_checksum(uint16_t start, uint16_t offset) {
    virtio_net_hdr_v1 header{};
    header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    header.csum_start = start;
    header.csum_offset = offset;
    return header;
}

virtio_net_hdr_v1 with_segments(uint8_t type, uint16_t bytes) {
    virtio_net_hdr_v1 header = with_checksum(34, 16);
    header.gso_type = type;
    header.gso_size = bytes;
    return header;
}

Result<FrameOffload, DropReason> parse(const virtio_net_hdr_v1& header,
                                       size_t bytes,
                                       const Offloads& allowed = kAll) {
    return parse_vnet_header(std::bit_cast<VnetHeader>(header), bytes, allowed);
}

DropReason refusal(const virtio_net_hdr_v1& header, size_t bytes, const Offloads& allowed = kAll) {
    const auto parsed = parse(header, bytes, allowed);
    EXPECT_FALSE(parsed);
    return parsed ? DropReason::kQueueFull : parsed.error();
}

TEST(VnetHeader, EmptyOneLeavesNothingToDo) {
    const auto offload = parse({}, 60);
    ASSERT_TRUE(offload);
    EXPECT_FALSE(offload->needs_checksum);
    EXPECT_EQ(offload->segmentation, Segmentation::kNone);
}

TEST(VnetHeader, FrameIsAtLeastAnEthernetHeaderAndAtMostTheLargestPacket) {
    EXPECT_EQ(refusal({}, 0), DropReason::kRunt);
    EXPECT_EQ(refusal({}, 13), DropReason::kRunt);
    EXPECT_TRUE(parse({}, 14));
    EXPECT_TRUE(parse({}, kFrameBytesMax));
    EXPECT_EQ(refusal({}, kFrameBytesMax + 1), DropReason::kGiant);
}

TEST(VnetHeader, ChecksumLiesBehindTheEthernetHeaderAndInsideTheFrame) {
    EXPECT_TRUE(parse(with_checksum(34, 16), 52));
    EXPECT_EQ(refusal(with_checksum(34, 16), 51), DropReason::kChecksumRange);
    EXPECT_EQ(refusal(with_checksum(13, 16), 60), DropReason::kChecksumRange);
    EXPECT_EQ(refusal(with_checksum(0xffff, 0xffff), 60), DropReason::kChecksumRange);
    EXPECT_EQ(refusal(with_checksum(60, 0), 60), DropReason::kChecksumRange);
}

TEST(VnetHeader, NothingIsTakenThatWasNotNegotiated) {
    EXPECT_EQ(refusal(with_checksum(34, 16), 60, {}), DropReason::kNotNegotiated);
    const auto tcp4 = with_segments(VIRTIO_NET_HDR_GSO_TCPV4, 1448);
    EXPECT_TRUE(parse(tcp4, 3000, {.checksum = true, .tcp4 = true}));
    EXPECT_EQ(refusal(tcp4, 3000, {.checksum = true, .tcp6 = true}), DropReason::kNotNegotiated);
    const auto tcp6 = with_segments(VIRTIO_NET_HDR_GSO_TCPV6, 1448);
    EXPECT_EQ(refusal(tcp6, 3000, {.checksum = true, .tcp4 = true}), DropReason::kNotNegotiated);
    const auto udp = with_segments(kUdpSegments, 1448);
    EXPECT_EQ(refusal(udp, 3000, {.checksum = true, .tcp4 = true}), DropReason::kNotNegotiated);
    const auto ecn = with_segments(VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 1448);
    EXPECT_TRUE(parse(ecn, 3000));
    EXPECT_EQ(refusal(ecn, 3000, {.checksum = true, .tcp4 = true}), DropReason::kNotNegotiated);
}

TEST(VnetHeader, SegmentsHaveASizeAKindAndAChecksum) {
    EXPECT_EQ(refusal(with_segments(VIRTIO_NET_HDR_GSO_TCPV4, 0), 3000), DropReason::kSegmentSize);
    EXPECT_EQ(refusal(with_segments(2, 1448), 3000), DropReason::kSegmentType);
    EXPECT_EQ(refusal(with_segments(0x7f, 1448), 3000), DropReason::kSegmentType);
    EXPECT_EQ(refusal(with_segments(VIRTIO_NET_HDR_GSO_ECN, 1448), 3000), DropReason::kSegmentType);
    virtio_net_hdr_v1 bare{};
    bare.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    bare.gso_size = 1448;
    EXPECT_EQ(refusal(bare, 3000), DropReason::kChecksumRange);
}

TEST(VnetHeader, FragmentsBeginAtMultiplesOfEightBytes) {
    Offloads all = kAll;
    all.fragments = true;
    const auto parsed = parse(with_segments(VIRTIO_NET_HDR_GSO_UDP, 1487), 3000, all);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->segmentation, Segmentation::kFragments);
    EXPECT_EQ(parsed->segment_bytes, 1480);
    EXPECT_EQ(make_vnet_header(*parsed, 42, 1).gso_type, VIRTIO_NET_HDR_GSO_UDP);
    EXPECT_EQ(refusal(with_segments(VIRTIO_NET_HDR_GSO_UDP, 7), 60, all), DropReason::kSegmentSize);
    EXPECT_EQ(refusal(with_segments(VIRTIO_NET_HDR_GSO_UDP, 8), 60'000, all),
              DropReason::kSegmentSize);
    EXPECT_EQ(refusal(with_segments(VIRTIO_NET_HDR_GSO_UDP, 1480), 3000),
              DropReason::kNotNegotiated);
    const uint8_t with_ecn = VIRTIO_NET_HDR_GSO_UDP | VIRTIO_NET_HDR_GSO_ECN;
    EXPECT_EQ(refusal(with_segments(with_ecn, 1480), 3000, all), DropReason::kNotNegotiated);
}

// Whoever cuts it: a kernel or another guest, which would make 65000 packets of one.
TEST(VnetHeader, SegmentsAreNotTooMany) {
    constexpr uint16_t kFew = 46;
    for (const uint8_t type :
         {uint8_t{VIRTIO_NET_HDR_GSO_TCPV4}, uint8_t{VIRTIO_NET_HDR_GSO_TCPV6}, kUdpSegments}) {
        EXPECT_TRUE(parse(with_segments(type, kFew), 1400 * kFew + kFew - 1));
        EXPECT_EQ(refusal(with_segments(type, kFew), 1401 * kFew), DropReason::kSegmentSize);
        EXPECT_EQ(refusal(with_segments(type, 1), 65'000), DropReason::kSegmentSize);
        EXPECT_TRUE(parse(with_segments(type, 1), 1400));
    }
}

TEST(VnetHeader, LengthOfHeadersIsNotBelieved) {
    auto header = with_segments(VIRTIO_NET_HDR_GSO_TCPV4, 1448);
    header.hdr_len = 0xffff;
    EXPECT_TRUE(parse(header, 3000));
}

TEST(VnetHeader, WhatIsReadIsWhatIsWritten) {
    for (const uint8_t type : {uint8_t{VIRTIO_NET_HDR_GSO_TCPV4},
                               uint8_t{VIRTIO_NET_HDR_GSO_TCPV6},
                               kUdpSegments,
                               uint8_t{VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN}}) {
        auto header = with_segments(type, 1448);
        const auto offload = parse(header, 3000);
        ASSERT_TRUE(offload);
        header.num_buffers = 3;
        header.hdr_len = 54;
        using Bytes = std::array<std::byte, sizeof header>;
        EXPECT_EQ(std::bit_cast<Bytes>(make_vnet_header(*offload, 54, 3)),
                  std::bit_cast<Bytes>(header))
            << int{type};
    }
}

/// Whoever does not call the parser for such a header must not miss a refusal, or work that is
/// left.
TEST(VnetHeader, WhatLeavesNothingParsesToNothing) {
    for (unsigned flags = 0; flags < 256; ++flags) {
        for (unsigned type = 0; type < 256; ++type) {
            virtio_net_hdr_v1 header = with_checksum(34, 16);
            header.flags = static_cast<uint8_t>(flags);
            header.gso_type = static_cast<uint8_t>(type);
            header.gso_size = 1448;
            for (const size_t bytes : {size_t{0},
                                       size_t{13},
                                       size_t{14},
                                       size_t{60},
                                       kFrameBytesMax,
                                       kFrameBytesMax + 1}) {
                const auto parsed = parse(header, bytes);
                ASSERT_EQ(leaves_nothing(std::bit_cast<VnetHeader>(header), bytes),
                          parsed && parsed->is_done())
                    << flags << ' ' << type << ' ' << bytes;
            }
        }
    }
}

TEST(VnetHeader, OneThatIsThereAlreadyIsWhatWouldBeMade) {
    using Bytes = std::array<std::byte, sizeof(VnetHeader)>;
    EXPECT_EQ(std::bit_cast<Bytes>(kNothingLeft), std::bit_cast<Bytes>(make_vnet_header({}, 0, 1)));
    EXPECT_EQ(std::bit_cast<Bytes>(kNothingLeftAndValid),
              std::bit_cast<Bytes>(make_vnet_header({.checksum_valid = true}, 0, 1)));
}

TEST(VnetHeader, ChecksumThatIsValidIsSaid) {
    EXPECT_EQ(make_vnet_header({.checksum_valid = true}, 0, 1).flags, VIRTIO_NET_HDR_F_DATA_VALID);
    EXPECT_EQ(make_vnet_header({}, 0, 1).flags, 0);
}

TEST(Offloads, SegmentsNeedChecksums) {
    const auto bits = FeatureSet::of({VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4});
    EXPECT_FALSE(offloads_of_driver(bits).tcp4);
    EXPECT_FALSE(offloads_for_driver(bits).tcp4);
    EXPECT_TRUE(offloads_of_driver(bits.with(VIRTIO_NET_F_CSUM)).tcp4);
    EXPECT_FALSE(offloads_of_driver(bits.with(VIRTIO_NET_F_GUEST_CSUM)).tcp4);
    EXPECT_TRUE(offloads_for_driver(bits.with(VIRTIO_NET_F_GUEST_CSUM)).tcp4);
    EXPECT_FALSE(offloads_for_driver(bits.with(VIRTIO_NET_F_CSUM)).tcp4);
}

}  // namespace
}  // namespace outrigger::net
