// SPDX-License-Identifier: Apache-2.0
// Traps of what is in frames: see net_traps.h.
#include "tests/integration/net_traps.h"

namespace outrigger::net {
namespace {

constexpr Offloads kGiants = {.tcp4 = false, .tcp6 = false, .giants = true};

using NetFrameTest = NetTest;

/// Segments or whole frames that the port got, as one payload; each is right by itself.
std::string joined(PlayedPort& port, size_t bytes) {
    std::string all;
    while (all.size() < bytes) {
        const auto frame = port.take();
        if (!frame) {
            break;
        }
        EXPECT_FALSE(frame->offload.needs_checksum);
        EXPECT_EQ(frame->offload.segmentation, Segmentation::kNone);
        const auto read = read_frame(frame->bytes);
        EXPECT_TRUE(read);
        if (!read) {
            break;
        }
        all += read->payload;
    }
    return all;
}

TEST_P(NetFrameTest, Trap10HostThatTakesEverythingGetsItAsItIs) {
    serve();
    const FrameOptions options{.partial_checksum = true};
    const std::string frame = make_frame(make_payload(20'000), options);
    ASSERT_TRUE(guest().send(frame, header_of(options, 1448)));
    const auto sent = port().take();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->bytes, frame);
    EXPECT_TRUE(sent->offload.needs_checksum);
    EXPECT_EQ(sent->offload.segmentation, Segmentation::kTcp4);
    EXPECT_EQ(sent->offload.segment_bytes, 1448);
}

TEST_P(NetFrameTest, Trap10ChecksumIsFinishedForTheHost) {
    serve({}, {}, {});
    for (const bool udp : {false, true}) {
        for (const bool ip6 : {false, true}) {
            const FrameOptions options{.ip6 = ip6, .udp = udp, .partial_checksum = true};
            ASSERT_TRUE(guest().send(make_frame("text", options), header_of(options)));
            EXPECT_EQ(joined(port(), 4), "text");
        }
    }
}

TEST_P(NetFrameTest, Trap10SegmentsAreMadeForTheHost) {
    serve({}, {}, {});
    const std::string payload = make_payload(60'000);
    for (const bool udp : {false, true}) {
        for (const bool ip6 : {false, true}) {
            const FrameOptions options{.ip6 = ip6, .udp = udp, .partial_checksum = true};
            ASSERT_TRUE(guest().send(make_frame(payload, options), header_of(options, 1400)));
            EXPECT_EQ(joined(port(), payload.size()), payload);
        }
    }
}

TEST_P(NetFrameTest, Trap10HostOfGiantsGetsOnePacket) {
    serve({}, {}, kGiants);
    const FrameOptions options{.partial_checksum = true};
    ASSERT_TRUE(guest().send(make_frame(make_payload(50'000), options), header_of(options, 1400)));
    const auto sent = port().take();
    ASSERT_TRUE(sent);
    const auto read = read_frame(sent->bytes);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->payload, make_payload(50'000));
}

TEST_P(NetFrameTest, Trap10SegmentsWaitForTheHostInTheirOrder) {
    serve({}, {}, {});
    port().set_room(3);
    const std::string payload = make_payload(60'000);
    const FrameOptions options{.partial_checksum = true};
    // The bytes were copied, so the buffer comes back before they are gone.
    ASSERT_TRUE(guest().send(make_frame(payload, options), header_of(options, 1000)));
    ASSERT_TRUE(guest().post_frame(make_frame("behind")));
    EXPECT_TRUE(eventually([&] { return port().waits() > 0; }));
    port().set_room(SIZE_MAX);
    EXPECT_EQ(joined(port(), payload.size() + 6), payload + "behind");
}

TEST_P(NetFrameTest, Trap10GuestThatTakesEverythingGetsItAsItIs) {
    serve({.receive_bytes = 4000});
    const FrameOptions options{.partial_checksum = true};
    const std::string frame = make_frame(make_payload(20'000), options);
    port().give(frame,
                {.needs_checksum = true,
                 .segmentation = Segmentation::kTcp4,
                 .segment_bytes = 1448,
                 .checksum_start = 34,
                 .checksum_offset = 16});
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, frame);
    EXPECT_EQ(received->header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    EXPECT_EQ(received->header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    EXPECT_EQ(received->header.gso_size, 1448);
    EXPECT_EQ(received->header.csum_start, 34);
    EXPECT_EQ(received->header.csum_offset, 16);
    EXPECT_EQ(received->header.hdr_len, 54);
}

TEST_P(NetFrameTest, Trap10ChecksumAndSegmentsAreMadeForTheGuest) {
    serve({.features = uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF});
    const std::string payload = make_payload(30'000);
    for (const bool udp : {false, true}) {
        const FrameOptions options{.udp = udp, .partial_checksum = true};
        const FrameOffload offload{.needs_checksum = true,
                                   .segmentation = udp ? Segmentation::kUdp : Segmentation::kTcp4,
                                   .segment_bytes = 1448,
                                   .checksum_start = 34,
                                   .checksum_offset = static_cast<uint16_t>(udp ? 6 : 16)};
        port().give(make_frame(payload, options), offload);
        std::string all;
        while (all.size() < payload.size()) {
            const auto received = guest().receive();
            ASSERT_TRUE(received);
            EXPECT_EQ(received->header.flags, 0);
            EXPECT_EQ(received->header.gso_type, VIRTIO_NET_HDR_GSO_NONE);
            const auto read = read_frame(received->bytes);
            ASSERT_TRUE(read);
            all += read->payload;
        }
        EXPECT_EQ(all, payload);
        FrameOffload whole = offload;
        whole.segmentation = Segmentation::kNone;
        port().give(make_frame("short", options), whole);
        const auto received = guest().receive();
        ASSERT_TRUE(received);
        EXPECT_TRUE(read_frame(received->bytes));
        EXPECT_EQ(received->header.flags, 0);
    }
    EXPECT_EQ(counters().finished_to_guest.value(), 4U);
}

// Said to be TCP, and is nothing at all.
const std::string kUnfinishable(60, '\0');
constexpr FrameOffload kUnfinished = {.needs_checksum = true,
                                      .segmentation = Segmentation::kTcp4,
                                      .segment_bytes = 10,
                                      .checksum_start = 34,
                                      .checksum_offset = 16};

// Other guests at a switch may send these faster than they can be dropped.
/// Clients read them by a raw socket and look at the checksum themselves.
TEST_P(NetFrameTest, Trap10AnswersOfDhcpAreWholeWhoeverTakesThem) {
    serve();
    for (const bool ip6 : {false, true}) {
        FrameOptions options{.ip6 = ip6, .udp = true, .partial_checksum = true};
        const uint16_t server = ip6 ? 547 : 67;
        const FrameOffload offload{.needs_checksum = true,
                                   .checksum_start = static_cast<uint16_t>(ip6 ? 54 : 34),
                                   .checksum_offset = 6};
        // Those of others stay as they are.
        for (const uint16_t source : {server, uint16_t{68}}) {
            options.source_port = source;
            const std::string frame = make_frame("lease", options);
            port().give(frame, offload);
            const auto received = guest().receive();
            ASSERT_TRUE(received);
            EXPECT_EQ(received->header.flags, source == server ? 0 : VIRTIO_NET_HDR_F_NEEDS_CSUM);
            EXPECT_EQ(read_frame(received->bytes).has_value(), source == server);

            ASSERT_TRUE(guest().send(frame, header_of(options)));
            const auto sent = port().take();
            ASSERT_TRUE(sent);
            EXPECT_EQ(sent->offload.needs_checksum, source != server);
            EXPECT_EQ(read_frame(sent->bytes).has_value(), source == server);
        }
    }
}

/// What is finished for a host that takes everything is copied: many such frames have to have room.
TEST_P(NetFrameTest, Trap10LongDatagramsFromThatPortAreNoSuchAnswers) {
    serve();
    port().set_room(0);
    const FrameOptions options{.udp = true, .source_port = 67, .partial_checksum = true};
    const std::string frame = make_frame(make_payload(60'000), options);
    constexpr int kFrames = 40;
    for (int i = 0; i < kFrames; ++i) {
        ASSERT_TRUE(guest().post_frame(frame, 0, header_of(options)));
    }
    EXPECT_TRUE(eventually([&] { return port().waits() > 0; }));
    port().set_room(SIZE_MAX);
    for (int i = 0; i < kFrames; ++i) {
        const auto sent = port().take();
        ASSERT_TRUE(sent);
        EXPECT_TRUE(sent->offload.needs_checksum);
        EXPECT_EQ(sent->bytes, frame);
    }
}

TEST_P(NetFrameTest, Trap10FramesThatCannotBeFinishedHoldUpNothingElse) {
    serve({.features = 0});
    port().set_endless(true);
    port().give(kUnfinishable, kUnfinished);
    EXPECT_TRUE(eventually([&] { return counters().finished_to_guest.value() > 1000; }));
    EXPECT_TRUE(guest().send(make_frame("out")));
    EXPECT_TRUE(port().take());
    port().set_endless(false);
    port().give(make_frame("behind"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("behind"));
}

TEST_P(NetFrameTest, Trap10FrameBehindManyThatCannotBeFinishedComesIntoBuffersThatWait) {
    serve({.receive_buffers = 256,
           .receive_bytes = 64,
           .features = uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF},
          {.mtu = 65535});
    port().give(make_frame(make_payload(30'000)));
    EXPECT_TRUE(eventually(
        [&] { return counters().dropped_to_guest.value(DropReason::kBufferTooSmall) == 1; }));
    give_others_a_moment();
    // All buffers are popped now: its ring has none to be looked at for.
    port().give_many(1000, kUnfinishable, kUnfinished);
    port().give(make_frame("behind"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("behind"));
}

struct Hostile {
    DropReason reason;
    virtio_net_hdr_v1 header{};
    size_t frame_bytes = 1000;
};

TEST_P(NetFrameTest, Trap11HostileHeadersAreDroppedAndCounted) {
    serve();
    std::vector<Hostile> cases;
    virtio_net_hdr_v1 header = header_of({});
    header.csum_start = 999;
    cases.push_back({DropReason::kChecksumRange, header});
    header = header_of({});
    header.csum_offset = 0xffff;
    cases.push_back({DropReason::kChecksumRange, header});
    header = header_of({}, 1);
    header.gso_size = 0;
    cases.push_back({DropReason::kSegmentSize, header});
    header = header_of({}, 100);
    header.gso_type = 0x77;
    cases.push_back({DropReason::kSegmentType, header});
    header = header_of({}, 100);
    header.flags = 0;
    cases.push_back({DropReason::kChecksumRange, header});
    cases.push_back({DropReason::kRunt, {}, 13});
    cases.push_back({DropReason::kRunt, {}, 0});
    cases.push_back({DropReason::kGiant, {}, kFrameBytesMax + 1});
    for (const Hostile& hostile : cases) {
        const uint64_t before = counters().dropped_from_guest.value(hostile.reason);
        ASSERT_TRUE(guest().send(std::string(hostile.frame_bytes, 'x'), hostile.header));
        EXPECT_EQ(counters().dropped_from_guest.value(hostile.reason), before + 1)
            << describe(hostile.reason);
    }
    ASSERT_TRUE(guest().send_raw("no header"));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kNoHeader), 1U);
    EXPECT_FALSE(port().take_now());
    expect_traffic();
}

TEST_P(NetFrameTest, Trap11FramesThatCannotBeCutAreDropped) {
    serve({}, {}, {});
    ASSERT_TRUE(guest().send(std::string(3000, 'x'), header_of({}, 1000)));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kSegmentHeaders), 1U);
    ASSERT_TRUE(guest().send(make_frame(make_payload(5000)), header_of({}, 1)));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kSegmentSize), 1U);
    EXPECT_FALSE(port().take_now());
    expect_traffic();
}

TEST_P(NetFrameTest, Trap11WhatWasNotNegotiatedIsDropped) {
    serve({.features = 0});
    ASSERT_TRUE(guest().send(make_frame("text"), header_of({})));
    ASSERT_TRUE(guest().send(make_frame("text"), header_of({}, 100)));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kNotNegotiated), 2U);
    EXPECT_FALSE(port().take_now());
    expect_traffic();
}

TEST_P(NetFrameTest, Trap11FeaturesThatDependOnOthersAreNoReasonToRefuse) {
    // As DPDK's virtio-user has it: parts of a whole that was not taken.
    serve({.features = uint64_t{1} << VIRTIO_NET_F_HOST_TSO4});
    ASSERT_TRUE(guest().send(make_frame("text"), header_of({}, 100)));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kNotNegotiated), 1U);
    expect_traffic();
}

TEST_P(NetFrameTest, LengthOfHeadersIsNotBelieved) {
    serve();
    auto header = header_of({}, 1000);
    header.hdr_len = 0xffff;
    ASSERT_TRUE(guest().send(make_frame(make_payload(3000)), header));
    EXPECT_TRUE(port().take());
}

// Of datagrams that are to become fragments of IP: whoever takes them gets them, others get those.
TEST_P(NetTest, Trap10DatagramsBecomeFragmentsForWhoeverCannot) {
    const FrameOptions options{.udp = true, .partial_checksum = true};
    const std::string payload = make_payload(3000);
    const std::string frame = make_frame(payload, options);
    const std::string whole = make_frame(payload, {.udp = true});
    const std::vector<std::string> pieces = {fragment_of(whole, 0, 1480),
                                             fragment_of(whole, 1480, 2960),
                                             fragment_of(whole, 2960, 3008)};
    virtio_net_hdr_v1 header = header_of(options);
    header.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    header.gso_size = 1480;
    const FrameOffload offload{.needs_checksum = true,
                               .segmentation = Segmentation::kFragments,
                               .segment_bytes = 1480,
                               .checksum_start = header.csum_start,
                               .checksum_offset = header.csum_offset};
    const NetGuestOptions able{.receive_bytes = 4096};
    serve(able, {.mtu = 1500});
    ASSERT_TRUE(guest().send(frame, header));
    const auto sent = port().take();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->bytes, frame);
    EXPECT_EQ(sent->offload.segmentation, Segmentation::kFragments);
    port().give(frame, offload);
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, frame);
    EXPECT_EQ(received->header.gso_type, VIRTIO_NET_HDR_GSO_UDP);
    EXPECT_EQ(received->header.gso_size, 1480);
    guest_.reset();
    host_.reset();
    NetGuestOptions unable = able;
    unable.features = ~(uint64_t{1} << VIRTIO_NET_F_GUEST_UFO);
    serve(unable, {.mtu = 1500}, Offloads{.checksum = true});
    ASSERT_TRUE(guest().send(frame, header));
    port().give(frame, offload);
    for (const std::string& piece : pieces) {
        const auto out = port().take();
        ASSERT_TRUE(out);
        EXPECT_EQ(out->bytes, piece);
        EXPECT_FALSE(out->offload.needs_checksum);
        const auto in = guest().receive();
        ASSERT_TRUE(in);
        EXPECT_EQ(in->bytes, piece);
        EXPECT_EQ(in->header.flags, 0);
    }
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kNotNegotiated), 0U);
}

// The first fragment of IPv6 would be longer than any frame, by the header that makes it one.
TEST_P(NetTest, Trap10FragmentsThatAreLongerThanAFrameAreNotMade) {
    const FrameOptions options{.ip6 = true, .udp = true, .partial_checksum = true};
    const size_t headers = testing::transport_start_of(options) + 8;
    const std::string frame = make_frame(make_payload(kFrameBytesMax - headers), options);
    virtio_net_hdr_v1 header = header_of(options);
    header.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    header.gso_size = 65'496;
    NetGuestOptions unable{.receive_bytes = 4096};
    unable.features = ~(uint64_t{1} << VIRTIO_NET_F_GUEST_UFO);
    serve(unable, {}, Offloads{.checksum = true});
    ASSERT_TRUE(guest().send(frame, header));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kSegmentSize), 1U);
    EXPECT_FALSE(port().take_now());
    port().give(frame,
                {.needs_checksum = true,
                 .segmentation = Segmentation::kFragments,
                 .segment_bytes = header.gso_size,
                 .checksum_start = header.csum_start,
                 .checksum_offset = header.csum_offset});
    expect_traffic();
    EXPECT_EQ(counters().dropped_to_guest.value(DropReason::kSegmentSize), 1U);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetFrameTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
