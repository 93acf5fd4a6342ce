// SPDX-License-Identifier: Apache-2.0
// The way from a switch to the host, with a played host. A tap of the kernel is in
// net_tap_daemon_test.cc.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "devices/net/switch_uplink.h"
#include "tests/integration/net_switch_guests.h"

namespace outrigger::net {
namespace {

const std::string kHostMac("\x52\x54\0\0\0\x99", 6);

class NetUplinkTest : public NetSwitchGuests {
  protected:
    ~NetUplinkTest() override {
        for (Station& each : stations_) {
            leave(each);
        }
        worker_.reset();
        uplink_.reset();
    }

    void start_uplink(const Offloads& takes = kAllOffloads) {
        auto host = std::make_unique<PlayedPort>(takes);
        host_ = host.get();
        uplink_ = SwitchUplink::create(options_, "played", std::move(host)).value();
        uplink_->start(worker());
        join();
        join();
    }

    void join() { NetSwitchGuests::join({.receive_bytes = 4096}); }

    void expect_at_host(const std::string& bytes) {
        const auto sent = host_->take();
        ASSERT_TRUE(sent);
        EXPECT_EQ(sent->bytes, bytes);
    }

    /// Everybody knows where everybody is.
    void introduce() {
        for (size_t station = 0; station < stations_.size(); ++station) {
            NetSwitchGuests::introduce(station);
            expect_at_host(hello_of(station));
        }
        const std::string hello = frame(kHostMac, kEverybodyMac, "hello");
        host_->give(hello);
        expect_received(0, hello);
        expect_received(1, hello);
    }

    /// 100 frames wait at a host without room, and are `come` frames when it has some.
    void expect_nobody_held_up(uint16_t segment_bytes, int come) {
        introduce();
        host_->set_room(0);
        const FrameOptions options{.partial_checksum = true};
        for (int i = 0; i < 100; ++i) {
            ASSERT_TRUE(guest(0).send(frame(mac(0), kHostMac, make_payload(2000), options),
                                      header_of(options, segment_bytes)));
        }
        ASSERT_TRUE(guest(0).send(frame(mac(0), mac(1), "across")));
        expect_received(1, frame(mac(0), mac(1), "across"));
        host_->give(frame(kHostMac, mac(1), "in"));
        expect_received(1, frame(kHostMac, mac(1), "in"));
        host_->set_room(SIZE_MAX);
        for (int i = 0; i < come; ++i) {
            ASSERT_TRUE(host_->take());
        }
        EXPECT_FALSE(host_->take_now());
    }

    [[nodiscard]] uint64_t refused(DropReason reason) const {
        return uplink_->switch_counters().dropped.value(reason);
    }

    PlayedPort* host_ = nullptr;
    std::unique_ptr<SwitchUplink> uplink_;
};

TEST_P(NetUplinkTest, FramesGoWhereTheirStationIs) {
    start_uplink();
    introduce();
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(guest(0).send(frame(mac(0), kHostMac, "out")));
        expect_at_host(frame(mac(0), kHostMac, "out"));
        host_->give(frame(kHostMac, mac(1), "in"));
        expect_received(1, frame(kHostMac, mac(1), "in"));
        ASSERT_TRUE(guest(0).send(frame(mac(0), mac(1), "across")));
        expect_received(1, frame(mac(0), mac(1), "across"));
    }
    expect_nothing(0);
    EXPECT_FALSE(host_->take_now());
}

TEST_P(NetUplinkTest, NothingOfTheHostGoesBackToIt) {
    start_uplink();
    introduce();
    host_->give(frame(kHostMac, kEverybodyMac, "to all"));
    expect_received(0, frame(kHostMac, kEverybodyMac, "to all"));
    expect_received(1, frame(kHostMac, kEverybodyMac, "to all"));
    host_->give(frame(mac(7), kHostMac, "among hosts"));
    EXPECT_TRUE(eventually([&] { return refused(DropReason::kNoPeer) == 1; }));
    expect_nothing(0);
    expect_nothing(1);
    EXPECT_FALSE(host_->take_now());
}

TEST_P(NetUplinkTest, WhatAGuestLeavesUnfinishedTheHostGets) {
    start_uplink();
    introduce();
    const FrameOptions options{.partial_checksum = true};
    const std::string sent = frame(mac(0), kHostMac, make_payload(20'000), options);
    ASSERT_TRUE(guest(0).send(sent, header_of(options, 1400)));
    const auto got = host_->take();
    ASSERT_TRUE(got);
    EXPECT_EQ(got->bytes, sent);
    EXPECT_EQ(got->offload.segmentation, Segmentation::kTcp4);
    EXPECT_EQ(got->offload.segment_bytes, 1400);
    EXPECT_TRUE(got->offload.needs_checksum);
}

TEST_P(NetUplinkTest, WhatTheHostLeavesUnfinishedAGuestGets) {
    start_uplink();
    introduce();
    const FrameOptions options{.partial_checksum = true};
    const std::string sent = frame(kHostMac, mac(0), make_payload(20'000), options);
    host_->give(sent,
                {.needs_checksum = true,
                 .segmentation = Segmentation::kTcp4,
                 .segment_bytes = 1400,
                 .checksum_start = static_cast<uint16_t>(testing::transport_start_of(options)),
                 .checksum_offset = 16});
    const auto received = guest(0).receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, sent);
    EXPECT_EQ(received->header.gso_size, 1400);
}

TEST_P(NetUplinkTest, Trap10WhatTheHostCannotTakeIsFinishedForIt) {
    start_uplink({});
    introduce();
    const FrameOptions options{.partial_checksum = true};
    const std::string payload = make_payload(3000);
    for (int round = 0; round < 3; ++round) {
        ASSERT_TRUE(
            guest(0).send(frame(mac(0), kHostMac, payload, options), header_of(options, 1000)));
        std::string got;
        for (int i = 0; i < 3; ++i) {
            const auto sent = host_->take();
            ASSERT_TRUE(sent);
            EXPECT_FALSE(sent->offload.needs_checksum);
            EXPECT_EQ(sent->offload.segmentation, Segmentation::kNone);
            const auto read = read_frame(sent->bytes);
            ASSERT_TRUE(read);
            got += read->payload;
        }
        EXPECT_EQ(got, payload);
        ASSERT_TRUE(guest(0).send(frame(mac(0), kHostMac, "sum", options), header_of(options)));
        const auto sent = host_->take();
        ASSERT_TRUE(sent);
        const auto read = read_frame(sent->bytes);
        ASSERT_TRUE(read);
        EXPECT_EQ(read->payload, "sum");
    }
}

// Of datagrams that are to become fragments of IP.
TEST_P(NetUplinkTest, Trap10DatagramsStayWholeBetweenThoseWhoTakeThem) {
    start_uplink();
    introduce();
    const FrameOptions options{.udp = true, .partial_checksum = true};
    const std::string out = frame(mac(0), kHostMac, make_payload(3000), options);
    ASSERT_TRUE(guest(0).send(out, fragments_header_of(options, 1480)));
    const auto got = host_->take();
    ASSERT_TRUE(got);
    EXPECT_EQ(got->bytes, out);
    EXPECT_EQ(got->offload.segmentation, Segmentation::kFragments);
    EXPECT_EQ(got->offload.segment_bytes, 1480);
    const std::string in = frame(kHostMac, mac(0), make_payload(3000), options);
    host_->give(in, got->offload);
    const auto received = guest(0).receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, in);
    EXPECT_EQ(received->header.gso_type, VIRTIO_NET_HDR_GSO_UDP);
    EXPECT_EQ(received->header.gso_size, 1480);
}

TEST_P(NetUplinkTest, Trap10DatagramsBecomeFragmentsForAHostThatCannot) {
    Offloads all_others = kAllOffloads;
    all_others.fragments = false;
    start_uplink(all_others);
    introduce();
    const std::string payload = make_payload(3000);
    for (int round = 0; round < 3; ++round) {
        const FrameOptions options{.udp = true, .partial_checksum = true};
        const std::string whole = frame(mac(0), kHostMac, payload, {.udp = true});
        ASSERT_TRUE(guest(0).send(frame(mac(0), kHostMac, payload, options),
                                  fragments_header_of(options, 1480)));
        for (const size_t begin : {0U, 1480U, 2960U}) {
            const auto piece = host_->take();
            ASSERT_TRUE(piece);
            EXPECT_EQ(piece->bytes,
                      fragment_of(whole, begin, std::min<size_t>(begin + 1480, 3008)));
            EXPECT_FALSE(piece->offload.needs_checksum);
            EXPECT_EQ(piece->offload.segmentation, Segmentation::kNone);
        }
        // Whom they are for does not get them another way.
        ASSERT_TRUE(guest(0).send(frame(mac(0), kHostMac, "behind")));
        expect_at_host(frame(mac(0), kHostMac, "behind"));
    }
}

TEST_P(NetUplinkTest, HostThatTakesNothingHoldsUpNobody) {
    start_uplink();
    expect_nobody_held_up(0, 100);
}

TEST_P(NetUplinkTest, HostThatTakesNothingAndOnlyWholeFramesHoldsUpNobody) {
    start_uplink({});
    expect_nobody_held_up(1000, 200);
}

TEST_P(NetUplinkTest, WhatWaitsForTheHostIsBounded) {
    start_uplink();
    introduce();
    host_->set_room(0);
    const std::string large = frame(mac(0), kHostMac, make_payload(1400));
    for (int i = 0; i < 4000; ++i) {
        ASSERT_TRUE(guest(0).send(large));
    }
    EXPECT_GT(dropped(0, DropReason::kQueueFull), 0U);
    host_->set_room(SIZE_MAX);
    expect_at_host(large);
}

TEST_P(NetUplinkTest, HostMayNotFloodTheGuests) {
    options_.flood_max = 5;
    start_uplink();
    const auto begin = AddressTable::Clock::now();
    host_->give_many(20, frame(kHostMac, kEverybodyMac, "flood"), {});
    EXPECT_TRUE(eventually([&] { return host_->waiting() == 0; }));
    const uint64_t stopped = refused(DropReason::kFlood);
    if (AddressTable::Clock::now() - begin < std::chrono::seconds(1)) {
        EXPECT_GE(stopped, 10U);  // a second may have begun meanwhile
    }
    EXPECT_EQ(uplink_->switch_counters().frames_sent.value(), 20 - stopped);
}

TEST_P(NetUplinkTest, ManyStationsAreAtTheHost) {
    start_uplink();
    introduce();
    for (int i = 0; i < 200; ++i) {
        std::string from = kHostMac;
        from[3] = static_cast<char>(i);
        host_->give(frame(from, mac(0), "I am"));
        expect_received(0, frame(from, mac(0), "I am"));
    }
    std::string last = kHostMac;
    last[3] = static_cast<char>(199);
    ASSERT_TRUE(guest(0).send(frame(mac(0), last, "out")));
    expect_at_host(frame(mac(0), last, "out"));
    // It was no flood.
    expect_nothing(1);
}

TEST_P(NetUplinkTest, WithoutGuestsFramesWaitAtTheHost) {
    start_uplink();
    introduce();
    for (Station& each : stations_) {
        leave(each);
    }
    stations_.clear();
    for (int i = 0; i < 100; ++i) {
        host_->give(frame(kHostMac, kEverybodyMac, std::to_string(i)));
    }
    give_others_a_moment();
    EXPECT_GE(host_->waiting(), 99U);
    join();
    for (int i = 0; i < 100; ++i) {
        expect_received(0, frame(kHostMac, kEverybodyMac, std::to_string(i)));
    }
}

TEST_P(NetUplinkTest, OneIsEnough) {
    start_uplink();
    const auto second =
        SwitchUplink::create(options_, "second", std::make_unique<PlayedPort>(kAllOffloads));
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message.find("switch test"), std::string::npos);
    SwitchOptions other = options_;
    other.name = "test-2";
    EXPECT_TRUE(SwitchUplink::create(other, "other", std::make_unique<PlayedPort>(kAllOffloads)));
    // It has gone.
    EXPECT_TRUE(SwitchUplink::create(other, "other", std::make_unique<PlayedPort>(kAllOffloads)));
}

INSTANTIATE_TEST_SUITE_P(Rings, NetUplinkTest, ::testing::ValuesIn(kSwitchRows), name_of_row);

}  // namespace
}  // namespace outrigger::net
