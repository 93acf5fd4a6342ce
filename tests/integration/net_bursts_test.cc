// SPDX-License-Identifier: Apache-2.0
// Frames of one burst, of which not all may go to the guest together.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tests/integration/net_switch_guests.h"

namespace outrigger::net {
namespace {

constexpr size_t kCount = 40;

class NetBurstsTest : public NetSwitchGuests {
  protected:
    struct Sent {
        std::string bytes{};
        virtio_net_hdr_v1 header{};
    };

    /// Two of them; the second one's device has these options.
    void join_both(const NetOptions& options, const NetGuestOptions& guest) {
        join();
        device_options_ = options;
        join(guest);
        introduce(0);
        introduce(1);
    }

    static NetOptions with_control(uint16_t pairs = 1) {
        NetOptions options{.mtu = 65535, .queue_pairs = pairs};
        options.mac.emplace();
        std::memcpy(options.mac->data(), mac(1).data(), options.mac->size());
        return options;
    }

    /// All of them are there when the device looks.
    void send_together(const std::vector<Sent>& frames) {
        NetGuest& sender = guest(0);
        for (const Sent& each : frames) {
            std::string bytes(sender.header_bytes(), '\0');
            std::memcpy(bytes.data(), &each.header, std::min(bytes.size(), sizeof(each.header)));
            bytes += each.bytes;
            const GuestAddr at = sender.memory().allocate(bytes.size(), 16).value();
            sender.memory().write(at, std::as_bytes(std::span(bytes)));
            const driver::Segment segment{.address = at,
                                          .length = static_cast<uint32_t>(bytes.size())};
            ASSERT_TRUE(sender.transmit_queue().try_add(std::span(&segment, 1), 0));
        }
        (void)sender.transmit_queue().publish_and_kick();
        ASSERT_TRUE(sender.await_posted(frames.size()));
    }

    [[nodiscard]] uint64_t refused(DropReason reason) const {
        return stations_.at(1).device->counters().dropped_to_guest.value(reason);
    }

    /// Of each four the third is another one.
    static bool is_other(size_t number) { return number % 4 == 2; }

    static std::string text_of(size_t number) { return "frame " + std::to_string(number); }
};

TEST_P(NetBurstsTest, FramesOverTheMtuAreNotAmongThem) {
    join_both({.mtu = 1000}, {});
    std::vector<Sent> frames;
    for (size_t number = 0; number < kCount; ++number) {
        const std::string text = text_of(number) + make_payload(is_other(number) ? 1200 : 20);
        frames.push_back({.bytes = frame(mac(0), mac(1), text)});
    }
    send_together(frames);
    for (size_t number = 0; number < kCount; ++number) {
        if (!is_other(number)) {
            expect_received(1, frames[number].bytes);
        }
    }
    expect_nothing(1);
    EXPECT_EQ(refused(DropReason::kOverMtu), kCount / 4);
}

TEST_P(NetBurstsTest, FramesThatTheDriverDoesNotWantAreNotAmongThem) {
    join_both(with_control(), {.control_queue = true});
    ASSERT_EQ(guest(1).command(std::string{VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 0}),
              VIRTIO_NET_OK);
    std::vector<Sent> frames;
    for (size_t number = 0; number < kCount; ++number) {
        // Of a VLAN that it has not asked for.
        const FrameOptions options{.vlan_tags = is_other(number) ? 1 : 0};
        frames.push_back({.bytes = frame(mac(0), mac(1), text_of(number), options)});
    }
    send_together(frames);
    for (size_t number = 0; number < kCount; ++number) {
        if (!is_other(number)) {
            expect_received(1, frames[number].bytes);
        }
    }
    expect_nothing(1);
    EXPECT_EQ(refused(DropReason::kFiltered), kCount / 4);
}

TEST_P(NetBurstsTest, UnfinishedFramesAreFinishedAndStayInTheirOrder) {
    join_both({.mtu = 65535}, {.features = ~(uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM)});
    std::vector<Sent> frames;
    for (size_t number = 0; number < kCount; ++number) {
        const FrameOptions options{.partial_checksum = is_other(number)};
        frames.push_back({.bytes = frame(mac(0), mac(1), text_of(number), options),
                          .header = is_other(number) ? header_of(options) : virtio_net_hdr_v1{}});
    }
    send_together(frames);
    for (size_t number = 0; number < kCount; ++number) {
        const auto received = guest(1).receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->header.flags, 0);
        EXPECT_EQ(received->bytes, frame(mac(0), mac(1), text_of(number)));
    }
    expect_nothing(1);
}

TEST_P(NetBurstsTest, FramesOfOtherPairsGoThere) {
    join_both(with_control(2), {.queue_pairs = 2, .control_queue = true});
    ASSERT_EQ(
        guest(1).command(std::string{VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 0}),
        VIRTIO_NET_OK);
    const FrameOptions other{.source_port = 7000, .destination_port = 8000};
    const FrameOptions other_back{.source_port = 8000, .destination_port = 7000};
    ASSERT_TRUE(guest(1).send(frame(mac(1), mac(0), "on the second", other), {}, {}, 1));
    expect_received(0, frame(mac(1), mac(0), "on the second", other));
    std::vector<Sent> frames;
    for (size_t number = 0; number < kCount; ++number) {
        frames.push_back(
            {.bytes = frame(
                 mac(0), mac(1), text_of(number), is_other(number) ? other_back : FrameOptions{})});
    }
    send_together(frames);
    for (size_t number = 0; number < kCount; ++number) {
        const auto received = guest(1).receive(is_other(number) ? 1 : 0);
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, frames[number].bytes);
    }
    EXPECT_FALSE(guest(1).receive_now(1));
    expect_nothing(1);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetBurstsTest, ::testing::ValuesIn(kSwitchRows), name_of_row);

}  // namespace
}  // namespace outrigger::net
