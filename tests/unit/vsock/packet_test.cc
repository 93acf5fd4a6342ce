// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/packet.h"

#include <initializer_list>

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

PacketHeader good_data() {
    return {.source_cid = 7,
            .destination_cid = kHostCid,
            .source_port = 1,
            .destination_port = 2,
            .length = 10,
            .type = 1,
            .operation = 5,
            .flags = 0,
            .buffer_bytes = 100,
            .forwarded_bytes = 3};
}

constexpr ParseContext kContext{.guest_cid = 7, .payload_bytes = 10};

TEST(Packet, GoodDataIsTaken) {
    const ParsedPacket parsed = parse_packet(good_data(), kContext);
    ASSERT_FALSE(parsed.fault);
    EXPECT_EQ(parsed.packet.operation, Operation::kData);
    EXPECT_EQ(parsed.packet.length, 10U);
    EXPECT_EQ(parsed.packet.buffer_bytes, 100U);
    EXPECT_EQ(parsed.packet.forwarded_bytes, 3U);
    EXPECT_FALSE(parsed.is_reset);
}

TEST(Packet, LengthOneBeyondTheBuffersIsNot) {
    PacketHeader header = good_data();
    header.length = 11;
    EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kLength);
}

TEST(Packet, LengthOfAllOnesIsNot) {
    PacketHeader header = good_data();
    header.length = ~uint32_t{0};
    EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kLength);
}

TEST(Packet, MoreThan64KibIsNotThoughTheBuffersHaveIt) {
    PacketHeader header = good_data();
    header.length = kPayloadBytesMax + 1;
    EXPECT_EQ(parse_packet(header, {.guest_cid = 7, .payload_bytes = 1 << 20}).fault,
              PacketFault::kLength);
    header.length = kPayloadBytesMax;
    EXPECT_FALSE(parse_packet(header, {.guest_cid = 7, .payload_bytes = 1 << 20}).fault);
}

TEST(Packet, PayloadBelongsToDataAlone) {
    PacketHeader header = good_data();
    for (const uint16_t operation : std::initializer_list<uint16_t>{1, 2, 3, 4, 6, 7}) {
        header.operation = operation;
        EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kPayloadOfControl);
    }
}

TEST(Packet, SourceIsTheGuest) {
    PacketHeader header = good_data();
    header.source_cid = 8;
    EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kSourceCid);
    header.source_cid = uint64_t{7} | uint64_t{1} << 32;
    EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kSourceCid);
}

TEST(Packet, TypesAreThoseThatWereNegotiated) {
    PacketHeader header = good_data();
    header.type = 2;
    EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kType);
    ParseContext context = kContext;
    context.allows_seqpacket = true;
    EXPECT_FALSE(parse_packet(header, context).fault);
    header.type = 1;
    context.allows_stream = false;
    EXPECT_EQ(parse_packet(header, context).fault, PacketFault::kType);
}

TEST(Packet, OperationsAreOneToSeven) {
    PacketHeader header = good_data();
    header.length = 0;
    for (const uint16_t operation : std::initializer_list<uint16_t>{0, 8, 0xffff}) {
        header.operation = operation;
        EXPECT_EQ(parse_packet(header, kContext).fault, PacketFault::kOperation);
    }
}

TEST(Packet, ResetIsKnownAsOneWhateverElseIsWrong) {
    PacketHeader header = good_data();
    header.operation = 3;
    header.type = 99;
    const ParsedPacket parsed = parse_packet(header, kContext);
    EXPECT_TRUE(parsed.fault);
    EXPECT_TRUE(parsed.is_reset);
}

TEST(Packet, ResetGoesBackWhereThePacketCameFrom) {
    const PacketHeader reset = make_reset_for({.source_cid = 7,
                                               .destination_cid = 2,
                                               .source_port = 10,
                                               .destination_port = 20,
                                               .type = 99});
    EXPECT_EQ(reset.source_cid, 2U);
    EXPECT_EQ(reset.destination_cid, 7U);
    EXPECT_EQ(reset.source_port, 20U);
    EXPECT_EQ(reset.destination_port, 10U);
    EXPECT_EQ(reset.type, 99U);
    EXPECT_EQ(reset.operation, 3U);
    EXPECT_EQ(reset.length, 0U);
}

}  // namespace
}  // namespace outrigger::vsock
