// SPDX-License-Identifier: Apache-2.0
// What guests at one switch hear of one another.
#include <array>
#include <chrono>
#include <span>
#include <string>
#include <thread>

#include "tests/integration/net_switch_guests.h"

namespace outrigger::net {
namespace {

class NetSwitchTest : public NetSwitchGuests {
  protected:
    /// Everybody knows where everybody is.
    void introduce() {
        for (size_t station = 0; station < stations_.size(); ++station) {
            NetSwitchGuests::introduce(station);
        }
    }
};

TEST_P(NetSwitchTest, FrameToEverybodyGoesToEverybodyElse) {
    join();
    join();
    join();
    introduce();
    expect_nothing(0);
}

TEST_P(NetSwitchTest, StationsOfAGuestThatMovesAreKnownWhereItComes) {
    for (int i = 0; i < 3; ++i) {
        join();
    }
    introduce();
    for (const uint32_t ring : {0U, 1U}) {
        ASSERT_TRUE(guest(1).frontend().get_vring_base(ring));
    }
    const auto state = stations_[1].device->save_state();
    ASSERT_TRUE(state);
    leave(stations_[1]);
    // Nobody knows it: everybody hears of it.
    expect_sent(0, frame(mac(0), mac(1), "where?"));
    expect_received(2, frame(mac(0), mac(1), "where?"));
    const size_t moved = join({}, *state);
    expect_sent(0, frame(mac(0), mac(1), "there"));
    expect_received(moved, frame(mac(0), mac(1), "there"));
    expect_nothing(2);
}

// The same where a migration has failed.
TEST_P(NetSwitchTest, StationsOfAGuestThatStaysAreStillKnown) {
    for (int i = 0; i < 3; ++i) {
        join();
    }
    introduce();
    for (const uint32_t ring : {0U, 1U}) {
        ASSERT_TRUE(guest(1).frontend().get_vring_base(ring));
    }
    ASSERT_EQ(guest(1).receive_queue().start(guest(1).frontend(), guest(1).memory()),
              driver::Answer::kAccepted);
    expect_sent(0, frame(mac(0), mac(1), "there"));
    expect_received(1, frame(mac(0), mac(1), "there"));
    expect_nothing(2);
}

TEST_P(NetSwitchTest, FrameToAStationGoesWhereItIsAlone) {
    join();
    join();
    join();
    introduce();
    for (int i = 0; i < 50; ++i) {
        expect_sent(0, frame(mac(0), mac(2), "to two"));
        expect_received(2, frame(mac(0), mac(2), "to two"));
        expect_sent(2, frame(mac(2), mac(0), "to none"));
        expect_received(0, frame(mac(2), mac(0), "to none"));
    }
    expect_nothing(1);
}

TEST_P(NetSwitchTest, FrameToAStationThatNobodyKnowsGoesToEverybodyElse) {
    join();
    join();
    join();
    expect_sent(0, frame(mac(0), mac(7), "who"));
    expect_received(1, frame(mac(0), mac(7), "who"));
    expect_received(2, frame(mac(0), mac(7), "who"));
}

TEST_P(NetSwitchTest, StationThatMovesIsFoundAgain) {
    join();
    join();
    join();
    introduce();
    expect_sent(2, frame(mac(1), kEverybodyMac, "here now"));
    expect_received(0, frame(mac(1), kEverybodyMac, "here now"));
    expect_received(1, frame(mac(1), kEverybodyMac, "here now"));
    expect_sent(0, frame(mac(0), mac(1), "found"));
    expect_received(2, frame(mac(0), mac(1), "found"));
    expect_nothing(1);
}

TEST_P(NetSwitchTest, StationThatAGuestMayNotBeAnyMoreIsForgotten) {
    join();
    join();
    join();
    introduce();
    expect_sent(1, frame(mac(5), kEverybodyMac, "spoofed"));
    expect_received(0, frame(mac(5), kEverybodyMac, "spoofed"));
    expect_received(2, frame(mac(5), kEverybodyMac, "spoofed"));
    const std::string own = mac(1);
    stations_[1].port->forget_stations_but(
        std::array{read_station(std::as_bytes(std::span(own)), 0)});
    expect_sent(0, frame(mac(0), mac(1), "to one"));
    expect_received(1, frame(mac(0), mac(1), "to one"));
    expect_nothing(2);
    expect_sent(0, frame(mac(0), mac(5), "where?"));
    expect_received(1, frame(mac(0), mac(5), "where?"));
    expect_received(2, frame(mac(0), mac(5), "where?"));
}

TEST_P(NetSwitchTest, FrameToAStationOfTheSamePortGoesNowhere) {
    join();
    join();
    introduce();
    expect_sent(0, frame(mac(5), kEverybodyMac, "behind a bridge"));
    expect_received(1, frame(mac(5), kEverybodyMac, "behind a bridge"));
    expect_sent(0, frame(mac(0), mac(5), "stays"));
    EXPECT_EQ(dropped(0, DropReason::kNoPeer), 1U);
    expect_nothing(1);
}

TEST_P(NetSwitchTest, FrameOfTheLinkAloneGoesNowhere) {
    join();
    join();
    introduce();
    expect_sent(0, frame(mac(0), std::string("\x01\x80\xc2\0\0\x0e", 6), "LLDP"));
    EXPECT_EQ(dropped(0, DropReason::kPeerRefused), 1U);
    expect_nothing(1);
}

TEST_P(NetSwitchTest, WhatTheSenderLeavesUnfinishedTheOtherGuestGets) {
    join();
    join({.receive_bytes = 4096});
    introduce();
    const FrameOptions options{.partial_checksum = true};
    const std::string sent = frame(mac(0), mac(1), make_payload(20'000), options);
    ASSERT_TRUE(guest(0).send(sent, header_of(options, 1400)));
    const auto received = guest(1).receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, sent);
    EXPECT_EQ(received->header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    EXPECT_EQ(received->header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    EXPECT_EQ(received->header.gso_size, 1400);
}

TEST_P(NetSwitchTest, Trap10WhatTheOtherGuestCannotTakeIsFinishedForIt) {
    join();
    join({.features =
              ~(uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM | uint64_t{1} << VIRTIO_NET_F_GUEST_TSO4)});
    introduce();
    const FrameOptions options{.partial_checksum = true};
    const std::string payload = make_payload(3000);
    ASSERT_TRUE(guest(0).send(frame(mac(0), mac(1), payload, options), header_of(options, 1000)));
    std::string got;
    for (int i = 0; i < 3; ++i) {
        const auto received = guest(1).receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->header.flags, 0);
        const auto read = read_frame(received->bytes);
        ASSERT_TRUE(read);
        got += read->payload;
    }
    EXPECT_EQ(got, payload);
}

TEST_P(NetSwitchTest, PortMayNotFloodTheOthers) {
    options_.flood_max = 5;
    join();
    join();
    const auto begin = AddressTable::Clock::now();
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(guest(0).send(frame(mac(0), kEverybodyMac, "flood")));
    }
    const uint64_t stopped = dropped(0, DropReason::kFlood);
    if (AddressTable::Clock::now() - begin < std::chrono::seconds(1)) {
        EXPECT_GE(stopped, 10U);  // a second may have begun meanwhile
    }
    for (uint64_t i = 0; i < 20 - stopped; ++i) {
        expect_received(1, frame(mac(0), kEverybodyMac, "flood"));
    }
    // What others know of is no flood.
    expect_sent(1, frame(mac(1), mac(0), "known"));
    expect_received(0, frame(mac(1), mac(0), "known"));
    EXPECT_EQ(dropped(1, DropReason::kFlood), 0U);
}

TEST_P(NetSwitchTest, LongFrameToEverybodyCountsAsWhatItWouldBeCutInto) {
    options_.flood_max = 5;
    join();
    join({.receive_bytes = 4096});
    const FrameOptions options{.partial_checksum = true};
    const std::string sent = frame(mac(0), kEverybodyMac, make_payload(20'000), options);
    // A second may begin between the two.
    for (int i = 0; i < 5 && dropped(0, DropReason::kFlood) == 0; ++i) {
        ASSERT_TRUE(guest(0).send(sent, header_of(options, 1400)));
        const auto received = guest(1).receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, sent);
        ASSERT_TRUE(guest(0).send(frame(mac(0), kEverybodyMac, "flood")));
        EXPECT_TRUE(eventually([&] {
            return dropped(0, DropReason::kFlood) > 0 || guest(1).receive_now().has_value();
        }));
        if (dropped(0, DropReason::kFlood) == 0) {
            // So that no try counts for the next one.
            std::this_thread::sleep_for(std::chrono::milliseconds(1100));
        }
    }
    EXPECT_EQ(dropped(0, DropReason::kFlood), 1U);
}

TEST_P(NetSwitchTest, GuestThatTakesNothingHoldsUpNobody) {
    join();
    join({.receive_buffers = 4});
    join();
    introduce();
    guest(1).hold_buffers();
    const std::string large = frame(mac(0), mac(1), make_payload(1400));
    for (int i = 0; i < 4000; ++i) {
        ASSERT_TRUE(guest(0).send(large));
    }
    EXPECT_GT(dropped(0, DropReason::kQueueFull), 0U);
    expect_sent(0, frame(mac(0), mac(2), "goes on"));
    expect_received(2, frame(mac(0), mac(2), "goes on"));
}

TEST_P(NetSwitchTest, GuestThatLeavesIsForgottenAndMayComeAgain) {
    join();
    join();
    introduce();
    leave(stations_.back());
    expect_sent(0, frame(mac(0), mac(1), "to nobody"));
    EXPECT_EQ(dropped(0, DropReason::kNoPeer), 1U);
    stations_.pop_back();
    join();
    introduce();
}

TEST_P(NetSwitchTest, SwitchesOfOtherNamesAreApart) {
    join();
    options_.name = "other";
    join();
    expect_sent(0, frame(mac(0), kEverybodyMac, "hello"));
    EXPECT_EQ(dropped(0, DropReason::kNoPeer), 1U);
    expect_nothing(1);
}

/// More than fits into one look at what waits, of lengths that fill the buffer in odd places.
TEST_P(NetSwitchTest, FramesStayInTheirOrderWhereBuffersAreFew) {
    join();
    join({.receive_buffers = 4});
    introduce();
    guest(1).hold_buffers();
    constexpr size_t kCount = 300;
    const auto text = [](size_t number) {
        return std::to_string(number) + make_payload(1 + number * 37 % 1300);
    };
    for (size_t number = 0; number < kCount; ++number) {
        expect_sent(0, frame(mac(0), mac(1), text(number)));
    }
    for (size_t number = 0; number < kCount; ++number) {
        if (number == 4) {
            guest(1).post_buffers();
        }
        expect_received(1, frame(mac(0), mac(1), text(number)));
    }
    expect_nothing(1);
}

/// Short ones have a buffer each, which are fetched together, and long ones among them several.
TEST_P(NetSwitchTest, FramesOfOneBatchStayInTheirOrderInShortBuffers) {
    join();
    join({.receive_buffers = 64, .receive_bytes = 200});
    introduce();
    constexpr size_t kCount = 40;
    const auto text = [](size_t number) {
        return std::to_string(number) + make_payload(number % 5 == 4 ? 900 : 20);
    };
    for (size_t number = 0; number < kCount; ++number) {
        ASSERT_TRUE(guest(0).post_frame(frame(mac(0), mac(1), text(number))));
    }
    ASSERT_TRUE(guest(0).await_posted(kCount));
    for (size_t number = 0; number < kCount; ++number) {
        expect_received(1, frame(mac(0), mac(1), text(number)));
    }
    expect_nothing(1);
    EXPECT_EQ(guest(1).empty_buffers(), 0U);
}

TEST_P(NetSwitchTest, PortsCountWhatPassesThem) {
    join();
    join();
    introduce();
    const PortCounters& sender = stations_[0].port->counters();
    const PortCounters& receiver = stations_[1].port->counters();
    const uint64_t sent = sender.bytes_sent.value();
    const uint64_t received = receiver.bytes_received.value();
    const std::string bytes = frame(mac(0), mac(1), "counted");
    for (int i = 0; i < 100; ++i) {
        expect_sent(0, bytes);
        expect_received(1, bytes);
    }
    EXPECT_EQ(sender.frames_sent.value(), 101U);
    EXPECT_EQ(sender.bytes_sent.value() - sent, 100 * bytes.size());
    EXPECT_EQ(receiver.frames_received.value(), 101U);
    EXPECT_EQ(receiver.bytes_received.value() - received, 100 * bytes.size());
    EXPECT_EQ(stations_[1].device->counters().frames_to_guest.value(), 101U);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetSwitchTest, ::testing::ValuesIn(kSwitchRows), name_of_row);

}  // namespace
}  // namespace outrigger::net
