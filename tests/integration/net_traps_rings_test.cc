// SPDX-License-Identifier: Apache-2.0
// Traps of rings and messages: see net_traps.h.
#include <cstring>

#include "tests/integration/net_traps.h"

namespace outrigger::net {
namespace {

/// The configuration space, as the kernel's header lays it out.
virtio_net_config config_of(NetGuest& guest) {
    const auto bytes = guest.frontend().get_config(0, sizeof(virtio_net_config));
    virtio_net_config config{};
    EXPECT_TRUE(bytes && bytes->size() == sizeof config);
    if (bytes && bytes->size() == sizeof config) {
        std::memcpy(&config, bytes->data(), sizeof config);
    }
    return config;
}

TEST_P(NetTest, FramesPassBothWays) {
    serve();
    expect_traffic();
    EXPECT_EQ(counters().frames_from_guest.value(), 1U);
    EXPECT_EQ(counters().frames_to_guest.value(), 1U);
}

TEST_P(NetTest, InOrderRingsPassFramesBothWays) {
    serve({.in_order = true});
    for (int i = 0; i < 300; ++i) {
        expect_traffic();
    }
}

TEST_P(NetTest, BatchOfFramesIsCalledForOnce) {
    serve({.receive_buffers = 64});
    for (size_t i = 0; i < 32; ++i) {
        port().give(make_frame(make_payload(100 + i)));
    }
    for (size_t i = 0; i < 32; ++i) {
        const auto frame = guest().receive();
        ASSERT_TRUE(frame);
        EXPECT_EQ(frame->bytes, make_frame(make_payload(100 + i)));
    }
}

TEST_P(NetTest, Trap01RingsAreEnabledInAnyOrder) {
    serve_device({.queue_pairs = 2});
    start_guest({.queue_pairs = 2, .enable = false});
    port().give(make_frame("early"));
    // QEMU enables the first pair long before rings start, and others when the driver uses them.
    EXPECT_EQ(guest().frontend().set_vring_enable(1, 1), driver::Answer::kAccepted);
    EXPECT_EQ(guest().frontend().set_vring_enable(0, 1), driver::Answer::kAccepted);
    const auto early = guest().receive();
    ASSERT_TRUE(early);
    EXPECT_EQ(early->bytes, make_frame("early"));
    expect_traffic();
}

TEST_P(NetTest, Trap01RingsMayBeEnabledBeforeFeaturesAreKnown) {
    serve_device({.queue_pairs = 2});
    // As QEMU does it, and never again.
    driver::Frontend frontend = host_->connect();
    const auto offered = frontend.get_protocol_features();
    ASSERT_TRUE(offered);
    ASSERT_TRUE(
        went_well(frontend.set_protocol_features(*offered & driver::kUsualProtocolFeatures)));
    for (const uint32_t ring : {0U, 1U, 2U, 3U}) {
        EXPECT_EQ(frontend.set_vring_enable(ring, ring < 2 ? 1 : 0), driver::Answer::kAccepted);
    }
    guest_ = std::make_unique<NetGuest>(
        std::move(frontend),
        NetGuestOptions{.packed = GetParam(), .queue_pairs = 2, .enable = false});
    ASSERT_TRUE(guest_->is_up());
    expect_traffic();
    ASSERT_TRUE(guest().send(make_frame("lost"), {}, {}, 1));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kRingDisabled), 1U);
}

TEST_P(NetTest, Trap02NothingIsOfferedThatNoMessageBrings) {
    serve();
    for (const unsigned bit : {22U, 51U, 52U, 53U, 57U, 60U, 61U}) {
        EXPECT_FALSE(device_->offered_features().has(bit)) << bit;
    }
}

TEST_P(NetTest, Trap03FramesGoWhereTheDriverHasAskedForThem) {
    serve({.queue_pairs = 2}, {.queue_pairs = 2});
    FrameOptions flow;
    FrameOptions back{.source_port = flow.destination_port, .destination_port = flow.source_port};
    port().give(make_frame("before", back));
    EXPECT_TRUE(guest().receive(0));
    // The driver uses the second pair for this flow, and the first for all others.
    ASSERT_TRUE(guest().send(make_frame("mine", flow), {}, {}, 1));
    ASSERT_TRUE(port().take());
    port().give(make_frame("behind", back));
    EXPECT_TRUE(guest().receive(1));
    back.source_port = 9999;
    port().give(make_frame("other", back));
    EXPECT_TRUE(guest().receive(0));
}

TEST_P(NetTest, Trap03PairWithoutBuffersIsPassedOver) {
    serve({.queue_pairs = 2, .receive_buffers = 4}, {.queue_pairs = 2});
    FrameOptions flow;
    FrameOptions back{.source_port = flow.destination_port, .destination_port = flow.source_port};
    ASSERT_TRUE(guest().send(make_frame("mine", flow), {}, {}, 1));
    guest().hold_buffers();
    for (int i = 0; i < 4; ++i) {
        port().give(make_frame("fills", back));
        ASSERT_TRUE(guest().receive(1));
    }
    port().give(make_frame("over", back));
    const auto frame = guest().receive(0);
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->bytes, make_frame("over", back));
}

TEST_P(NetTest, Trap04RingBeyondTheLastIsRefused) {
    serve();
    // The third is the control queue's.
    EXPECT_EQ(guest().frontend().set_vring_num(3, 256), driver::Answer::kRefused);
    EXPECT_EQ(guest().frontend().set_vring_enable(3, 1), driver::Answer::kRefused);
    expect_traffic();
}

TEST_P(NetTest, Trap05QueueNumCountsRings) {
    serve({.queue_pairs = 2}, {.queue_pairs = 4});
    EXPECT_EQ(guest().frontend().get_queue_num(), 9U);
    EXPECT_EQ(config_of(guest()).max_virtqueue_pairs, 4);
    EXPECT_TRUE(guest().features().has(VIRTIO_NET_F_MQ));
}

TEST_P(NetTest, Trap06RingThatIsNotEnabledThrowsAway) {
    serve();
    ASSERT_EQ(guest().frontend().set_vring_enable(1, 0), driver::Answer::kAccepted);
    ASSERT_TRUE(guest().send(make_frame("lost")));
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kRingDisabled), 1U);
    ASSERT_EQ(guest().frontend().set_vring_enable(0, 0), driver::Answer::kAccepted);
    port().give(make_frame("waits"));
    give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    ASSERT_EQ(guest().frontend().set_vring_enable(0, 1), driver::Answer::kAccepted);
    ASSERT_EQ(guest().frontend().set_vring_enable(1, 1), driver::Answer::kAccepted);
    const auto frame = guest().receive();
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->bytes, make_frame("waits"));
    EXPECT_FALSE(port().take_now());
    expect_traffic();
}

TEST_P(NetTest, Trap06FeaturesThatComeAgainDisableNothing) {
    serve();
    ASSERT_EQ(guest().frontend().set_features(guest().features()), driver::Answer::kAccepted);
    expect_traffic();
}

TEST_P(NetTest, Trap07HeaderInDescriptorsOfAnyShape) {
    serve();
    const std::string frame = make_frame(make_payload(500));
    const std::vector<std::vector<uint32_t>> shapes = {
        {12}, {1, 11}, {6, 6}, {13}, {10, 2, 14}, {12, 1, 1, 1}, {5, 5, 5, 5, 5}};
    for (const auto& shape : shapes) {
        ASSERT_TRUE(guest().send(frame, {}, shape));
        const auto sent = port().take();
        ASSERT_TRUE(sent);
        EXPECT_EQ(sent->bytes, frame);
    }
}

TEST_P(NetTest, Trap07LegacyDriverHasAShorterHeader) {
    serve({.version_1 = false, .features = ~(uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF)});
    EXPECT_EQ(guest().header_bytes(), GetParam() ? 12U : 10U);
    expect_traffic();
}

TEST_P(NetTest, Trap07LegacyDriverThatMergesBuffersHasTheLongerHeader) {
    serve({.version_1 = false});
    EXPECT_EQ(guest().header_bytes(), 12U);
    expect_traffic();
}

TEST_P(NetTest, Trap08FrameOverManyBuffersSaysHowMany) {
    serve({.receive_buffers = 64, .receive_bytes = 200}, {.mtu = 9000});
    for (const size_t bytes : {0U, 100U, 134U, 135U, 1000U, 8000U}) {
        const std::string frame = make_frame(make_payload(bytes));
        port().give(frame);
        const auto received = guest().receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, frame);
        EXPECT_EQ(received->buffers, (frame.size() + 12 + 199) / 200);
        EXPECT_EQ(received->header.num_buffers, received->buffers);
    }
}

TEST_P(NetTest, Trap08DriverThatDoesNotMergeIsToldOfOneBuffer) {
    serve({.features = ~(uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF)});
    port().give(make_frame("one"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->header.num_buffers, 1);
}

TEST_P(NetTest, Trap08FrameWaitsForItsLastBuffer) {
    serve({.receive_buffers = 4, .receive_bytes = 400});
    guest().hold_buffers();
    const std::string small = make_frame("small");
    port().give(small);
    ASSERT_TRUE(guest().receive());
    // Three buffers are left, and it needs four.
    const std::string frame = make_frame(make_payload(1400));
    port().give(frame);
    port().give(small);
    give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    guest().post_buffers();
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, frame);
    EXPECT_EQ(received->buffers, 4U);
    EXPECT_TRUE(guest().receive());
    EXPECT_EQ(guest().empty_buffers(), 0U);
}

// Linux counts each as an error of its length.
TEST_P(NetTest, Trap08BuffersThatWaitedForALongFrameServeShortOnes) {
    serve({.queue_pairs = 2, .receive_buffers = 3, .receive_bytes = 400}, {.queue_pairs = 2});
    FrameOptions flow;
    FrameOptions back{.source_port = flow.destination_port, .destination_port = flow.source_port};
    ASSERT_TRUE(guest().send(make_frame("mine", flow), {}, {}, 1));
    ASSERT_TRUE(port().take());
    guest().hold_buffers();
    // It needs four buffers: the second pair's three are taken for it, and then the first's.
    port().give(make_frame(make_payload(1400), back));
    give_others_a_moment();
    EXPECT_FALSE(guest().receive_now(1));
    EXPECT_FALSE(guest().receive_now(0));
    guest().add_buffer(0);
    const auto received = guest().receive(0);
    ASSERT_TRUE(received);
    EXPECT_EQ(received->buffers, 4U);
    for (const char* const payload : {"one", "two", "three"}) {
        port().give(make_frame(payload, back));
        const auto frame = guest().receive(1);
        ASSERT_TRUE(frame) << payload;
        EXPECT_EQ(frame->bytes, make_frame(payload, back));
    }
    EXPECT_EQ(guest().empty_buffers(), 0U);
    guest().post_buffers();
    expect_traffic();
}

TEST_P(NetTest, Trap09FrameLongerThanAnyBufferIsDroppedWhole) {
    serve({.receive_bytes = 200, .features = ~(uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF)});
    port().give(make_frame(make_payload(1000)));
    port().give(make_frame("fits"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("fits"));
    EXPECT_EQ(counters().dropped_to_guest.value(DropReason::kBufferTooSmall), 1U);
}

TEST_P(NetTest, Trap09FrameLongerThanAllBuffersIsDroppedWhole) {
    // The ring has room for 256 buffers, which come to less than one frame.
    serve({.receive_buffers = 256, .receive_bytes = 64}, {.mtu = 65535});
    port().give(make_frame(make_payload(30'000)));
    port().give(make_frame("fits"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("fits"));
    EXPECT_EQ(counters().dropped_to_guest.value(DropReason::kBufferTooSmall), 1U);
    // Those that it had not fit in serve the next one.
    EXPECT_EQ(guest().empty_buffers(), 0U);
}

TEST_P(NetTest, Trap12FramesWaitForBuffers) {
    serve({.receive_buffers = 8});
    guest().hold_buffers();
    for (size_t i = 0; i < 20; ++i) {
        port().give(make_frame(make_payload(50 + i)));
    }
    for (int i = 0; i < 8; ++i) {
        ASSERT_TRUE(guest().receive());
    }
    give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    EXPECT_EQ(port().waiting(), 12U);
    guest().post_buffers();
    for (size_t i = 8; i < 20; ++i) {
        const auto frame = guest().receive();
        ASSERT_TRUE(frame);
        EXPECT_EQ(frame->bytes, make_frame(make_payload(50 + i)));
    }
}

// The driver has no more than these, and gives no other before it has some back.
TEST_P(NetTest, Trap12FrameBeyondAllBuffersDoesNotHoldThemForEver) {
    serve({.receive_buffers = 8}, {.mtu = 65535, .buffers_wait = std::chrono::milliseconds(200)});
    for (int i = 0; i < 2; ++i) {
        port().give(make_frame(make_payload(30'000)));
    }
    port().give(make_frame("behind"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("behind"));
    EXPECT_EQ(counters().dropped_to_guest.value(DropReason::kBufferTooSmall), 2U);
    EXPECT_EQ(guest().empty_buffers(), 0U);
    port().give(make_frame(make_payload(9'000)));
    EXPECT_TRUE(guest().receive());
    expect_traffic();
}

TEST_P(NetTest, Trap12IdleDeviceTakesNoProcessor) {
    serve();
    expect_traffic();
    give_others_a_moment();
    const uint64_t turns = host_->worker_counters(0).turns.value();
    give_others_a_moment();
    EXPECT_LE(host_->worker_counters(0).turns.value(), turns + 2);
}

TEST_P(NetTest, Trap13FramesWaitForTheHostInTheirOrder) {
    serve();
    port().set_room(2);
    for (size_t i = 0; i < 10; ++i) {
        ASSERT_TRUE(guest().post_frame(make_frame(make_payload(60 + i))));
    }
    EXPECT_TRUE(eventually([&] { return port().waits() > 0; }));
    // The other direction lives.
    port().give(make_frame("in"));
    EXPECT_TRUE(guest().receive());
    port().set_room(SIZE_MAX);
    for (size_t i = 0; i < 10; ++i) {
        const auto sent = port().take();
        ASSERT_TRUE(sent);
        EXPECT_EQ(sent->bytes, make_frame(make_payload(60 + i)));
    }
    EXPECT_TRUE(guest().await_posted(10));
}

// What the device has taken already goes out, whatever becomes of its pair meanwhile.
TEST_P(NetTest, Trap13PairsMayChangeWhileFramesWaitForTheHost) {
    serve_device({.queue_pairs = 2});
    start_guest({.queue_pairs = 2, .control_queue = true});
    const auto use_pairs = [&](char pairs) {
        return guest().command(std::string("\x04\0", 2) + pairs + std::string(1, '\0'));
    };
    ASSERT_EQ(use_pairs(2), std::optional<uint8_t>(0));
    for (int round = 0; round < 10; ++round) {
        const size_t waits = port().waits();
        port().set_room(0);
        ASSERT_TRUE(guest().post_frame(make_frame("waits"), 1));
        EXPECT_TRUE(eventually([&] { return port().waits() > waits; }));
        if (round % 2 == 0) {
            ASSERT_EQ(use_pairs(1), std::optional<uint8_t>(0));
        } else {
            ASSERT_EQ(guest().frontend().set_vring_enable(2, 0), driver::Answer::kAccepted);
            ASSERT_EQ(guest().frontend().set_vring_enable(3, 0), driver::Answer::kAccepted);
        }
        EXPECT_FALSE(port().take_now());
        port().set_room(SIZE_MAX);
        const auto sent = port().take();
        ASSERT_TRUE(sent);
        EXPECT_EQ(sent->bytes, make_frame("waits"));
        EXPECT_TRUE(guest().await_posted(1, 1));
        expect_traffic();
        ASSERT_EQ(use_pairs(2), std::optional<uint8_t>(0));
        ASSERT_EQ(guest().frontend().set_vring_enable(2, 1), driver::Answer::kAccepted);
        ASSERT_EQ(guest().frontend().set_vring_enable(3, 1), driver::Answer::kAccepted);
    }
}

TEST_P(NetTest, Trap13WaitingCostsNoProcessor) {
    serve();
    port().set_room(0);
    ASSERT_TRUE(guest().post_frame(make_frame("waits")));
    EXPECT_TRUE(eventually([&] { return port().waits() > 0; }));
    give_others_a_moment();
    const uint64_t turns = host_->worker_counters(0).turns.value();
    give_others_a_moment();
    EXPECT_LE(host_->worker_counters(0).turns.value(), turns + 2);
    port().set_room(SIZE_MAX);
    EXPECT_TRUE(guest().await_posted(1));
}

TEST_P(NetTest, Trap15FrameOverTheMtuIsDropped) {
    serve({.receive_bytes = 4000}, {.mtu = 1500});
    EXPECT_EQ(config_of(guest()).mtu, 1500);
    port().give(make_frame(make_payload(1501 - 40 + 4)));
    port().give(make_frame(make_payload(1500 - 40)));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes.size(), 1514U);
    EXPECT_EQ(counters().dropped_to_guest.value(DropReason::kOverMtu), 1U);
}

TEST_P(NetTest, Trap15DriverThatWasNotToldOfTheMtuGetsWhatFits) {
    serve({.receive_bytes = 4000, .features = ~(uint64_t{1} << VIRTIO_NET_F_MTU)});
    port().give(make_frame(make_payload(3000)));
    EXPECT_TRUE(guest().receive());
}

TEST_P(NetTest, Trap15FrontEndSaysTheMtu) {
    serve({.receive_bytes = 4000});
    EXPECT_EQ(guest().frontend().net_set_mtu(3500), driver::Answer::kAccepted);
    port().give(make_frame(make_payload(3000)));
    EXPECT_TRUE(guest().receive());
    EXPECT_EQ(config_of(guest()).mtu, 1500);
    EXPECT_EQ(guest().frontend().net_set_mtu(67), driver::Answer::kRefused);
    EXPECT_EQ(guest().frontend().net_set_mtu(65536), driver::Answer::kRefused);
}

TEST_P(NetTest, Trap16LinkIsUp) {
    serve();
    EXPECT_EQ(config_of(guest()).status, VIRTIO_NET_S_LINK_UP);
}

TEST_P(NetTest, Trap17AnnouncementIsOneFrameToAll) {
    serve();
    // The first six bytes of the payload, 02:00:00:00:00:07.
    ASSERT_EQ(guest().frontend().send_rarp(0x0700'0000'0002), driver::Answer::kAccepted);
    const auto sent = port().take();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->bytes.size(), 60U);
    const std::string mac("\x02\0\0\0\0\x07", 6);
    EXPECT_EQ(sent->bytes.substr(0, 6), "\xff\xff\xff\xff\xff\xff");
    EXPECT_EQ(sent->bytes.substr(6, 6), mac);
    EXPECT_EQ(sent->bytes.substr(12, 10), std::string("\x80\x35\0\x01\x08\0\x06\x04\0\x03", 10));
    EXPECT_EQ(sent->bytes.substr(22, 6), mac);
    EXPECT_EQ(sent->bytes.substr(32, 6), mac);
    give_others_a_moment();
    EXPECT_FALSE(port().take_now());
    EXPECT_EQ(guest().frontend().send_rarp(0xffff'ffff'ffff), driver::Answer::kRefused);
}

TEST_P(NetTest, Trap17AnnouncementWaitsForARing) {
    serve();
    for (const size_t ring : {0U, 1U}) {
        ASSERT_TRUE(guest().frontend().get_vring_base(static_cast<uint32_t>(ring)));
    }
    ASSERT_EQ(guest().frontend().send_rarp(0x0700'0000'0002), driver::Answer::kAccepted);
    give_others_a_moment();
    EXPECT_FALSE(port().take_now());
    ASSERT_EQ(guest().transmit_queue().start(guest().frontend(), guest().memory()),
              driver::Answer::kAccepted);
    EXPECT_TRUE(port().take());
}

TEST_P(NetTest, Trap17AnnouncementWaitsForTheHost) {
    serve();
    port().set_room(0);
    ASSERT_EQ(guest().frontend().send_rarp(0x0700'0000'0002), driver::Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return port().waits() == 1; }));
    EXPECT_EQ(counters().announcements.value(), 0U);
    port().set_room(SIZE_MAX);
    const auto sent = port().take();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->bytes.substr(6, 6), std::string("\x02\0\0\0\0\x07", 6));
    EXPECT_TRUE(eventually([&] { return counters().announcements.value() == 1; }));
    expect_traffic();
    EXPECT_FALSE(port().take_now());
}

TEST_P(NetTest, Trap17LaterAnnouncementTakesThePlaceOfOneThatWaits) {
    serve();
    port().set_room(0);
    ASSERT_EQ(guest().frontend().send_rarp(0x0700'0000'0002), driver::Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return port().waits() == 1; }));
    ASSERT_EQ(guest().frontend().send_rarp(0x0800'0000'0002), driver::Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return port().waits() == 2; }));
    port().set_room(SIZE_MAX);
    const auto sent = port().take();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->bytes.substr(6, 6), std::string("\x02\0\0\0\0\x08", 6));
    expect_traffic();
    EXPECT_FALSE(port().take_now());
}

TEST_P(NetTest, Trap19BuffersThatWaitGoBackWhenTheRingStops) {
    serve({.receive_buffers = 3, .receive_bytes = 400});
    port().give(make_frame(make_payload(1400)));
    give_others_a_moment();
    const auto base = guest().frontend().get_vring_base(0);
    ASSERT_TRUE(base);
    while (guest().receive_queue().in_flight() > 0 && guest().receive_queue().poll_used()) {
    }
    EXPECT_EQ(guest().receive_queue().in_flight(), 0U);
    EXPECT_EQ(*base, guest().receive_queue().base());
}

TEST_P(NetTest, Trap19FramesThatWaitGoBackWhenTheRingStops) {
    serve();
    port().set_room(0);
    ASSERT_TRUE(guest().post_frame(make_frame("waits")));
    EXPECT_TRUE(eventually([&] { return port().waits() > 0; }));
    ASSERT_TRUE(guest().frontend().get_vring_base(1));
    EXPECT_EQ(guest().take_posted(), 1U);
    EXPECT_EQ(counters().dropped_from_guest.value(DropReason::kRingStopped), 1U);
}

TEST_P(NetTest, Trap21AddressIsOfferedWhereThereIsOne) {
    serve();
    EXPECT_FALSE(guest().features().has(VIRTIO_NET_F_MAC));
}

TEST_P(NetTest, Trap21AddressIsInTheConfiguration) {
    MacAddress mac{};
    mac[0] = std::byte{2};
    mac[5] = std::byte{9};
    serve({}, {.mac = mac});
    EXPECT_TRUE(guest().features().has(VIRTIO_NET_F_MAC));
    const virtio_net_config config = config_of(guest());
    EXPECT_EQ(std::memcmp(config.mac, mac.data(), mac.size()), 0);
}

TEST_P(NetTest, Trap22MemoryChangesWhileFramesWait) {
    serve({.receive_buffers = 4, .receive_bytes = 400});
    // Three buffers are left, and the frame needs four.
    guest().hold_buffers();
    port().give(make_frame("small"));
    ASSERT_TRUE(guest().receive());
    port().set_room(0);
    ASSERT_TRUE(guest().post_frame(make_frame("waits")));
    EXPECT_TRUE(eventually([&] { return port().waits() > 0; }));
    port().give(make_frame(make_payload(1400)));
    give_others_a_moment();
    // The region that everything lies in goes; who holds some of it gives it back.
    const auto region = guest().memory().regions().front();
    EXPECT_EQ(guest().frontend().rem_mem_reg(guest().memory(), region), driver::Answer::kAccepted);
    EXPECT_EQ(guest().frontend().add_mem_reg(guest().memory(), region), driver::Answer::kAccepted);
    port().set_room(SIZE_MAX);
    EXPECT_TRUE(guest().await_posted(1));
    EXPECT_FALSE(guest().receive_now());
    EXPECT_EQ(guest().empty_buffers(), 3U);
    guest().post_buffers();
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame(make_payload(1400)));
    (void)port().take_now();
    expect_traffic();
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
