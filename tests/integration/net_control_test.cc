// SPDX-License-Identifier: Apache-2.0
// The control queue, of front ends that pass it on, and what a guest takes along by its state.
// VIRTIO 1.3, 5.1.6.5.
#include <array>
#include <cstring>
#include <string>

#include "tests/integration/net_traps.h"
#include "tests/support/state_pipe.h"

namespace outrigger::net {
namespace {

using testing::load_state;
using testing::save_state;

const std::string kOwn("\x52\x54\0\0\0\x02", 6);  // where frames of the tests go
const std::string kFriend("\x52\x54\0\0\0\x07", 6);
const std::string kStranger("\x52\x54\0\0\0\x09", 6);
const std::string kGroup("\x33\x33\0\0\0\x01", 6);
const std::string kOtherGroup("\x33\x33\0\0\0\x02", 6);
const std::string kAll(6, '\xff');

constexpr uint8_t kOk = VIRTIO_NET_OK;
constexpr uint8_t kError = VIRTIO_NET_ERR;

std::string number(uint64_t value, size_t bytes) {
    std::string text;
    for (size_t i = 0; i < bytes; ++i) {
        text.push_back(static_cast<char>(value >> (8 * i)));
    }
    return text;
}

std::string command(uint8_t of_class, uint8_t what, const std::string& data) {
    return std::string{static_cast<char>(of_class), static_cast<char>(what)} + data;
}

std::string receive_mode(uint8_t what, bool on) {
    return command(VIRTIO_NET_CTRL_RX, what, number(on ? 1 : 0, 1));
}

std::string tables(const std::vector<std::string>& unicast,
                   const std::vector<std::string>& multicast) {
    std::string data = number(unicast.size(), 4);
    for (const std::string& station : unicast) {
        data += station;
    }
    data += number(multicast.size(), 4);
    for (const std::string& station : multicast) {
        data += station;
    }
    return command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, data);
}

std::string vlan(uint8_t what, uint16_t id) {
    return command(VIRTIO_NET_CTRL_VLAN, what, number(id, 2));
}

std::string queue_pairs(uint16_t pairs) {
    return command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, number(pairs, 2));
}

std::string offloads(uint64_t bits) {
    return command(
        VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, number(bits, 8));
}

class NetControlTest : public NetTest {
  protected:
    static NetOptions with_mac(uint16_t pairs = 1) {
        NetOptions options{.queue_pairs = pairs};
        options.mac.emplace();
        std::memcpy(options.mac->data(), kOwn.data(), kOwn.size());
        return options;
    }

    void serve_control(const NetOptions& options = with_mac(), NetGuestOptions guest = {}) {
        guest.control_queue = true;
        guest.queue_pairs = std::max(guest.queue_pairs, options.queue_pairs);
        serve(guest, options);
    }

    /// Does such a frame come? One to everybody tells, which follows it.
    bool is_received(const std::string& to, int vlan_tags = 0) {
        const std::string frame = make_frame("looked for", {.vlan_tags = vlan_tags, .to_mac = to});
        const std::string end = make_frame("end", {.to_mac = kAll});
        port().give(frame);
        port().give(end);
        const auto first = guest().receive();
        if (!first || first->bytes == end) {
            EXPECT_TRUE(first);
            return false;
        }
        EXPECT_EQ(first->bytes, frame);
        const auto second = guest().receive();
        EXPECT_TRUE(second && second->bytes == end);
        return true;
    }

    virtio_net_config config() {
        virtio_net_config config{};
        const auto bytes = guest().frontend().get_config(0, 24);
        EXPECT_TRUE(bytes && bytes->size() == 24);
        if (bytes && bytes->size() == 24) {
            std::memcpy(&config, bytes->data(), bytes->size());
        }
        return config;
    }
};

TEST_P(NetControlTest, DriverThatAsksForNothingReceivesEverything) {
    serve_control();
    EXPECT_TRUE(is_received(kOwn));
    EXPECT_TRUE(is_received(kStranger));
    EXPECT_TRUE(is_received(kGroup));
    EXPECT_TRUE(is_received(kOwn, 1));
}

TEST_P(NetControlTest, WithoutPromiscuousModeOwnFramesCome) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    EXPECT_TRUE(is_received(kOwn));
    EXPECT_FALSE(is_received(kStranger));
    EXPECT_FALSE(is_received(kGroup));
    EXPECT_EQ(counters().dropped_to_guest.value(DropReason::kFiltered), 2U);
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, true)), kOk);
    EXPECT_TRUE(is_received(kStranger));
    EXPECT_EQ(counters().commands.value(), 2U);
}

TEST_P(NetControlTest, ModesOpenAndCloseKindsOfFrames) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_ALLMULTI, true)), kOk);
    EXPECT_TRUE(is_received(kGroup));
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_NOMULTI, true)), kOk);
    EXPECT_FALSE(is_received(kGroup));
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_ALLUNI, true)), kOk);
    EXPECT_TRUE(is_received(kStranger));
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_NOUNI, true)), kOk);
    EXPECT_FALSE(is_received(kStranger));
    EXPECT_FALSE(is_received(kOwn));
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_NOUNI, false)), kOk);
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_NOBCAST, true)), kOk);
    port().give(make_frame("to all", {.to_mac = kAll}));
    port().give(make_frame("to me", {.to_mac = kOwn}));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("to me", {.to_mac = kOwn}));
}

TEST_P(NetControlTest, TablesSayWhatElseComes) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    ASSERT_EQ(guest().command(tables({kFriend, kStranger}, {kGroup})), kOk);
    EXPECT_TRUE(is_received(kFriend));
    EXPECT_TRUE(is_received(kOwn));
    EXPECT_TRUE(is_received(kGroup));
    EXPECT_FALSE(is_received(kOtherGroup));
    // A new table takes the old one's place.
    ASSERT_EQ(guest().command(tables({}, {kOtherGroup})), kOk);
    EXPECT_FALSE(is_received(kFriend));
    EXPECT_FALSE(is_received(kGroup));
    EXPECT_TRUE(is_received(kOtherGroup));
}

TEST_P(NetControlTest, TableThatIsTooLongLetsAllPass) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    ASSERT_EQ(guest().command(tables({}, std::vector<std::string>(1025, kGroup))), kOk);
    EXPECT_TRUE(is_received(kOtherGroup));
    EXPECT_FALSE(is_received(kStranger));
    ASSERT_EQ(guest().command(tables(std::vector<std::string>(1024, kFriend), {})), kOk);
    EXPECT_TRUE(is_received(kFriend));
    EXPECT_FALSE(is_received(kStranger));
    EXPECT_FALSE(is_received(kOtherGroup));
}

TEST_P(NetControlTest, DriverChangesItsAddress) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    ASSERT_EQ(guest().command(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, kFriend)),
              kOk);
    EXPECT_TRUE(is_received(kFriend));
    EXPECT_FALSE(is_received(kOwn));
    EXPECT_EQ(std::memcmp(config().mac, kFriend.data(), kFriend.size()), 0);
    // A group's, nobody's, one that is cut short.
    for (const std::string& wrong : {kGroup, std::string(6, '\0'), kFriend.substr(1)}) {
        EXPECT_EQ(
            guest().command(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, wrong)),
            kError);
    }
    EXPECT_TRUE(is_received(kFriend));
}

TEST_P(NetControlTest, GuestWhoseAddressNobodyKnowsReceivesAnyStations) {
    serve_control({});
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    EXPECT_TRUE(is_received(kStranger));
    EXPECT_FALSE(is_received(kGroup));
}

TEST_P(NetControlTest, VlansAreFilteredByTheirTable) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    const std::string tagged = make_frame("", {.vlan_tags = 1});
    const auto id = static_cast<uint16_t>((static_cast<uint8_t>(tagged[14]) & 0xf) << 8 |
                                          static_cast<uint8_t>(tagged[15]));
    EXPECT_FALSE(is_received(kOwn, 1));
    EXPECT_TRUE(is_received(kOwn));
    ASSERT_EQ(guest().command(vlan(VIRTIO_NET_CTRL_VLAN_ADD, id)), kOk);
    EXPECT_TRUE(is_received(kOwn, 1));
    ASSERT_EQ(guest().command(vlan(VIRTIO_NET_CTRL_VLAN_DEL, id)), kOk);
    EXPECT_FALSE(is_received(kOwn, 1));
    EXPECT_EQ(guest().command(vlan(VIRTIO_NET_CTRL_VLAN_ADD, 4096)), kError);
}

TEST_P(NetControlTest, DriverWithoutVlanFilterReceivesAllTags) {
    serve_control(with_mac(), {.features = ~(uint64_t{1} << VIRTIO_NET_F_CTRL_VLAN)});
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    EXPECT_TRUE(is_received(kOwn, 1));
    EXPECT_EQ(guest().command(vlan(VIRTIO_NET_CTRL_VLAN_ADD, 5)), kError);
}

TEST_P(NetControlTest, FramesGoToPairsThatAreInUse) {
    serve_control(with_mac(3));
    FrameOptions flow;
    FrameOptions back{.source_port = flow.destination_port, .destination_port = flow.source_port};
    // Only the first before the driver says how many.
    ASSERT_TRUE(guest().send(make_frame("mine", flow), {}, {}, 2));
    ASSERT_TRUE(port().take());
    port().give(make_frame("one", back));
    EXPECT_TRUE(guest().receive(0));
    ASSERT_EQ(guest().command(queue_pairs(3)), kOk);
    port().give(make_frame("two", back));
    EXPECT_TRUE(guest().receive(2));
    ASSERT_EQ(guest().command(queue_pairs(2)), kOk);
    port().give(make_frame("three", back));
    EXPECT_TRUE(guest().receive(0));
    for (const uint16_t wrong : {uint16_t{0}, uint16_t{4}, uint16_t{0x8001}}) {
        EXPECT_EQ(guest().command(queue_pairs(wrong)), kError);
    }
    expect_traffic();
}

TEST_P(NetControlTest, PairThatIsUsedAgainHasWhatWaits) {
    serve_control(with_mac(2), {.queue_pairs = 2, .receive_buffers = 4});
    guest().hold_buffers();
    for (int i = 0; i < 6; ++i) {
        port().give(make_frame(make_payload(50)));
    }
    for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(guest().receive(0));
    }
    // The first pair has no buffers left; the second is not used yet.
    give_others_a_moment();
    EXPECT_FALSE(guest().receive_now(1));
    ASSERT_EQ(guest().command(queue_pairs(2)), kOk);
    EXPECT_TRUE(guest().receive(1));
    EXPECT_TRUE(guest().receive(1));
}

// VIRTIO 1.3, 5.1.2: N is 1 where MQ was not agreed on.
TEST_P(NetControlTest, DriverOfOnePairHasItAsItsThirdRing) {
    serve_device(with_mac(4));
    start_guest({.features = ~(uint64_t{1} << VIRTIO_NET_F_MQ), .control_queue = true});
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    EXPECT_FALSE(is_received(kStranger));
    EXPECT_EQ(guest().command(queue_pairs(1)), kError);
    expect_traffic();
}

TEST_P(NetControlTest, RingBehindThePairsIsLeftAloneWithoutTheFeature) {
    serve_control(with_mac(), {.features = ~(uint64_t{1} << VIRTIO_NET_F_CTRL_VQ)});
    const std::string bytes = receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false);
    const GuestAddr at = guest().memory().allocate(16, 16).value();
    guest().memory().write(at, std::as_bytes(std::span(bytes)));
    const driver::Segment segment{.address = at, .length = 3};
    ASSERT_TRUE(guest().control_queue().try_add(std::span(&segment, 1), 0));
    (void)guest().control_queue().publish_and_kick();
    expect_traffic();
    EXPECT_FALSE(guest().control_queue().poll_used());
    EXPECT_EQ(counters().commands.value() + counters().commands_refused.value(), 0U);
}

// A front end may say other features while rings run: what a ring is for stays.
TEST_P(NetControlTest, RingsKeepTheirUseWhenFeaturesChange) {
    serve_device(with_mac(2));
    start_guest({.features = ~(uint64_t{1} << VIRTIO_NET_F_MQ), .control_queue = true});
    (void)guest().frontend().set_features(guest().features().with(VIRTIO_NET_F_MQ));
    auto fifth = driver::create_queue(guest().memory(),
                                      {.features = guest().features(), .protocol_features = {}},
                                      {.packed = GetParam(), .queue_count = 5, .queue_size = 16},
                                      4);
    ASSERT_TRUE(fifth);
    ASSERT_EQ(fifth->start(guest().frontend(), guest().memory()), driver::Answer::kAccepted);
    ASSERT_EQ(guest().frontend().set_vring_enable(4, 1), driver::Answer::kAccepted);
    // The third stops; the fifth, which is for commands now, goes on.
    ASSERT_TRUE(guest().frontend().get_vring_base(2));
    const GuestAddr at = guest().memory().allocate(16, 16).value();
    const std::string bytes = receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false);
    guest().memory().write(at, std::as_bytes(std::span(bytes)));
    const std::array<driver::Segment, 2> segments = {
        driver::Segment{.address = at, .length = 3},
        driver::Segment{.address = driver::offset_by(at, 8), .length = 1, .device_writable = true}};
    EXPECT_TRUE(fifth->transact(segments, driver::after(testing::kPatience)));
    EXPECT_FALSE(is_received(kStranger));
}

TEST_P(NetControlTest, OffloadsAreSwitchedOffAndOn) {
    serve_control();
    const FrameOptions options{.partial_checksum = true};
    const std::string frame = make_frame(make_payload(3000), options);
    FrameOffload offload{.needs_checksum = true, .segmentation = Segmentation::kTcp4};
    offload.segment_bytes = 1000;
    offload.checksum_start = static_cast<uint16_t>(testing::transport_start_of(options));
    offload.checksum_offset = 16;
    port().give(frame, offload);
    const auto whole = guest().receive();
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->bytes, frame);
    EXPECT_EQ(whole->header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    ASSERT_EQ(guest().command(offloads(0)), kOk);
    port().give(frame, offload);
    for (int i = 0; i < 3; ++i) {
        const auto part = guest().receive();
        ASSERT_TRUE(part);
        EXPECT_EQ(part->header.flags, 0);
        const auto read = read_frame(part->bytes);
        ASSERT_TRUE(read);
        EXPECT_EQ(read->payload.size(), 1000U);
    }
    const uint64_t all = uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM | uint64_t{1}
                                                                      << VIRTIO_NET_F_GUEST_TSO4;
    ASSERT_EQ(guest().command(offloads(all)), kOk);
    port().give(frame, offload);
    const auto again = guest().receive();
    ASSERT_TRUE(again);
    EXPECT_EQ(again->bytes, frame);
    // What is no offload of the guest's, what there is not, what is cut short.
    EXPECT_EQ(guest().command(offloads(1)), kError);
    EXPECT_EQ(guest().command(offloads(uint64_t{1} << VIRTIO_NET_F_HOST_UFO)), kError);
    EXPECT_EQ(guest().command(offloads(all).substr(0, 9)), kError);
}

TEST_P(NetControlTest, OffloadThatWasNotAgreedOnCannotBeSwitchedOn) {
    serve_control(with_mac(), {.features = ~(uint64_t{1} << VIRTIO_NET_F_GUEST_TSO4)});
    EXPECT_EQ(guest().command(offloads(uint64_t{1} << VIRTIO_NET_F_GUEST_TSO4)), kError);
    EXPECT_EQ(guest().command(offloads(uint64_t{1} << VIRTIO_NET_F_GUEST_TSO6)), kOk);
}

TEST_P(NetControlTest, ChecksumsThatAreRightAreToldAsLongAsTheyAreWanted) {
    serve_control();
    port().give(make_frame("right"), {.checksum_valid = true});
    const auto told = guest().receive();
    ASSERT_TRUE(told);
    EXPECT_EQ(told->header.flags, VIRTIO_NET_HDR_F_DATA_VALID);
    ASSERT_EQ(guest().command(offloads(0)), kOk);
    port().give(make_frame("right"), {.checksum_valid = true});
    const auto silent = guest().receive();
    ASSERT_TRUE(silent);
    EXPECT_EQ(silent->header.flags, 0);
}

TEST_P(NetControlTest, MalformedCommandsAreRefused) {
    serve_control();
    const std::string promiscuous = receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false);
    const std::string table = tables({kFriend}, {kGroup});
    const std::vector<std::string> wrong = {
        promiscuous.substr(0, 1),
        promiscuous.substr(0, 2),
        promiscuous + '\0',
        command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, number(2, 1)),
        receive_mode(VIRTIO_NET_CTRL_RX_NOBCAST + 1, true),
        table.substr(0, 2),
        table.substr(0, 5),
        table.substr(0, 11),
        table.substr(0, table.size() - 1),
        table + '\0',
        command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, number(0, 4)),
        command(VIRTIO_NET_CTRL_MAC,
                VIRTIO_NET_CTRL_MAC_TABLE_SET,
                number(0xffff'ffff, 4) + number(0, 4)),
        command(VIRTIO_NET_CTRL_MAC, 2, kFriend),
        command(VIRTIO_NET_CTRL_VLAN, 2, number(1, 2)),
        vlan(VIRTIO_NET_CTRL_VLAN_ADD, 1).substr(0, 3),
        command(VIRTIO_NET_CTRL_ANNOUNCE, 1, ""),
        command(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "x"),
        queue_pairs(1),  // one pair: the feature is not offered
        command(VIRTIO_NET_CTRL_MQ, 1, std::string(20, '\0')),
        command(6, 0, ""),
        command(0xff, 0xff, std::string(100, '\xff')),
        std::string(128 * 1024, '\0'),
    };
    for (const std::string& bytes : wrong) {
        EXPECT_EQ(guest().command(bytes), kError) << bytes.size();
    }
    EXPECT_EQ(counters().commands_refused.value(), wrong.size());
    EXPECT_EQ(counters().commands.value(), 0U);
    EXPECT_TRUE(is_received(kStranger));
}

TEST_P(NetControlTest, CommandWithoutRoomForAnAnswerIsNotCarriedOut) {
    serve_control();
    EXPECT_FALSE(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false), 0));
    EXPECT_TRUE(is_received(kStranger));
    EXPECT_EQ(counters().commands_refused.value(), 1U);
}

TEST_P(NetControlTest, CommandsComeInDescriptorsOfAnyShape) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    const std::string table = tables({kFriend}, {kGroup});
    const std::array<uint32_t, 4> shape = {1, 1, 7, 4};
    EXPECT_EQ(guest().command(table, 64, shape), kOk);
    EXPECT_TRUE(is_received(kFriend));
    EXPECT_FALSE(is_received(kStranger));
}

TEST_P(NetControlTest, ResetForgetsWhatTheDriverSet) {
    serve_control();
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    ASSERT_EQ(guest().command(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, kFriend)),
              kOk);
    guest_.reset();
    ASSERT_TRUE(host_->wait_closed());
    start_guest({.control_queue = true});
    EXPECT_EQ(std::memcmp(config().mac, kOwn.data(), kOwn.size()), 0);
    EXPECT_TRUE(is_received(kStranger));
}

// --- State --------------------------------------------------------------------------------------

class NetStateTest : public NetControlTest {
  protected:
    void stop_rings(uint32_t count) {
        for (uint32_t ring = 0; ring < count; ++ring) {
            ASSERT_TRUE(guest().frontend().get_vring_base(ring));
        }
    }

    /// What a guest has set goes to a device that has these options; nothing of it comes back.
    std::string saved_after(const std::vector<std::string>& commands) {
        serve_control(with_mac(), {.device_state = true});
        for (const std::string& bytes : commands) {
            EXPECT_EQ(guest().command(bytes), kOk);
        }
        stop_rings(3);
        std::string state = save_state(guest().frontend());
        EXPECT_FALSE(state.empty());
        guest_.reset();
        return state;
    }

    /// On another device, before its rings start.
    [[nodiscard]] bool is_taken_by(const NetOptions& options, const std::string& state) {
        host_.reset();
        serve_device(options);
        return load_into(host_->connect(), state);
    }

    [[nodiscard]] bool load_into(driver::Frontend frontend, const std::string& state) {
        const FeatureSet wanted =
            driver::kUsualProtocolFeatures.with(wire::bit(wire::ProtocolFeature::kDeviceState));
        EXPECT_TRUE(frontend.get_features());
        EXPECT_TRUE(frontend.get_protocol_features());
        EXPECT_TRUE(went_well(frontend.set_protocol_features(wanted)));
        const bool is_good = load_state(frontend, state);
        kept_frontend_.emplace(std::move(frontend));
        return is_good;
    }

    std::optional<driver::Frontend> kept_frontend_;
};

TEST_P(NetStateTest, WhatTheDriverSetFollowsTheGuest) {
    const std::string state =
        saved_after({receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false), tables({kFriend}, {kGroup})});
    ASSERT_TRUE(is_taken_by(with_mac(), state));
    guest_ = std::make_unique<NetGuest>(
        *std::move(kept_frontend_),
        NetGuestOptions{.packed = GetParam(), .control_queue = true, .device_state = true});
    ASSERT_TRUE(guest_->is_up());
    EXPECT_TRUE(is_received(kFriend));
    EXPECT_TRUE(is_received(kGroup));
    EXPECT_FALSE(is_received(kStranger));
    EXPECT_FALSE(is_received(kOtherGroup));
}

// VIRTIO 1.3, 5.1.6.5.5.
TEST_P(NetStateTest, GuestThatHasMovedIsAskedToAnnounceItself) {
    const std::string state = saved_after({});
    ASSERT_TRUE(is_taken_by(with_mac(), state));
    guest_ = std::make_unique<NetGuest>(
        *std::move(kept_frontend_),
        NetGuestOptions{.packed = GetParam(), .control_queue = true, .device_state = true});
    ASSERT_TRUE(guest_->is_up());
    EXPECT_EQ(config().status, VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    ASSERT_EQ(guest().command(command(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "")),
              kOk);
    EXPECT_EQ(config().status, VIRTIO_NET_S_LINK_UP);
}

TEST_P(NetStateTest, DeviceThatIsAnotherOneRefusesTheState) {
    const std::string state = saved_after({});
    NetOptions other = with_mac();
    other.mtu = 9000;
    EXPECT_FALSE(is_taken_by(other, state));
    kept_frontend_.reset();
    EXPECT_FALSE(is_taken_by(with_mac(2), state));
    kept_frontend_.reset();
    EXPECT_FALSE(is_taken_by({}, state));
    kept_frontend_.reset();
    EXPECT_TRUE(is_taken_by(with_mac(), state));
    kept_frontend_.reset();
}

TEST_P(NetStateTest, SourceGoesOnWhereItWasSaved) {
    serve_control(with_mac(), {.device_state = true});
    ASSERT_EQ(guest().command(receive_mode(VIRTIO_NET_CTRL_RX_PROMISC, false)), kOk);
    stop_rings(3);
    EXPECT_FALSE(save_state(guest().frontend()).empty());
    for (const size_t ring : {0U, 1U, 2U}) {
        driver::DriverQueue& queue = ring == 0   ? guest().receive_queue()
                                     : ring == 1 ? guest().transmit_queue()
                                                 : guest().control_queue();
        ASSERT_EQ(queue.start(guest().frontend(), guest().memory()), driver::Answer::kAccepted);
    }
    EXPECT_FALSE(is_received(kStranger));
    EXPECT_EQ(config().status, VIRTIO_NET_S_LINK_UP);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetControlTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});
INSTANTIATE_TEST_SUITE_P(Rings, NetStateTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
