// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_state.h"

#include <gtest/gtest.h>

#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

constexpr StationAddress kStation = 0x5254'0000'0007;
constexpr StationAddress kGroup = 0x3333'0000'0001;

GuestSettings sample_settings() {
    GuestSettings settings;
    settings.apply(SetReceiveMode{.mode = ReceiveMode::kPromiscuous, .on = false});
    settings.apply(SetReceiveMode{.mode = ReceiveMode::kNoBroadcast, .on = true});
    settings.apply(SetStations{.unicast = {{kStation + 1, kStation}}, .multicast = {{kGroup}}});
    settings.apply(SetOwnStation{.station = kStation});
    settings.apply(ChangeVlan{.vlan = 0, .wanted = true});
    settings.apply(ChangeVlan{.vlan = 4095, .wanted = true});
    settings.apply(SetQueuePairs{.pairs = 2});
    settings.apply(SetGuestOffloads{.wanted = FeatureSet::of({kGuestChecksumBit})});
    return settings;
}

NetState sample_state() {
    return {.shown = {.mtu = 1500, .queue_pairs = 4},
            .settings = sample_settings(),
            .port = {.stations = {kStation}, .leases = {std::byte{1}, std::byte{2}}}};
}

TEST(GuestSettingsTest, AreWhatTheyWereBehindEncoding) {
    for (const GuestSettings& settings : {GuestSettings(), sample_settings()}) {
        const auto decoded = GuestSettings::decode(settings.encode());
        ASSERT_TRUE(decoded);
        EXPECT_EQ(*decoded, settings);
    }
}

TEST(GuestSettingsTest, LargestFit) {
    GuestSettings settings;
    const std::vector<StationAddress> most(kStationsMax, kStation);
    settings.apply(SetStations{.unicast = most, .multicast = most});
    const auto bytes = settings.encode();
    EXPECT_LE(bytes.size(), GuestSettings::kBytesMax);
    EXPECT_EQ(GuestSettings::decode(bytes), settings);
}

TEST(GuestSettingsTest, TablesThatWereTooLongStaySo) {
    GuestSettings settings;
    settings.apply(SetStations{.unicast = std::nullopt, .multicast = std::nullopt});
    EXPECT_EQ(GuestSettings::decode(settings.encode()), settings);
}

TEST(GuestSettingsTest, OtherBytesAreNone) {
    const auto good = sample_settings().encode();
    auto with = [&](size_t at, uint8_t value) {
        auto bytes = good;
        bytes[at] = std::byte{value};
        return GuestSettings::decode(bytes);
    };
    EXPECT_FALSE(with(0, 0x40));  // a mode that there is not
    EXPECT_FALSE(with(1, 0x13));  // a flag that there is not
    EXPECT_FALSE(with(2, 0));     // no pairs
    EXPECT_FALSE(with(4, 3));     // a table of another length
    EXPECT_FALSE(with(8, 1));     // an offload that is none of the guest's
    EXPECT_FALSE(with(16, 1));    // a group as its own address
    EXPECT_FALSE(with(22, 1));    // what is 0
    EXPECT_FALSE(GuestSettings::decode({}));
    EXPECT_FALSE(GuestSettings::decode(std::span(good).first(good.size() - 1)));
    auto longer = good;
    longer.push_back({});
    EXPECT_FALSE(GuestSettings::decode(longer));
}

TEST(NetStateTest, IsReadAsItWasWritten) {
    const auto state = read_net_state(write_net_state(sample_state()));
    ASSERT_TRUE(state);
    EXPECT_EQ(state->shown, sample_state().shown);
    EXPECT_EQ(state->settings, sample_state().settings);
    EXPECT_EQ(state->port.stations, sample_state().port.stations);
    EXPECT_EQ(state->port.leases, sample_state().port.leases);
}

TEST(NetStateTest, MayHaveNoStationsAndNoLeases) {
    NetState bare = sample_state();
    bare.port = {};
    const auto sections = write_net_state(bare);
    EXPECT_EQ(sections.size(), 2U);
    EXPECT_TRUE(read_net_state(sections));
}

TEST(NetStateTest, SectionsOfAnotherSizeAreRefused) {
    const auto good = write_net_state(sample_state());
    ASSERT_EQ(good.size(), 4U);
    for (const size_t section : {0U, 1U, 2U}) {
        auto shorter = good;
        shorter[section].bytes.pop_back();
        EXPECT_FALSE(read_net_state(shorter)) << section;
        auto longer = good;
        longer[section].bytes.push_back({});
        EXPECT_FALSE(read_net_state(longer)) << section;
    }
    EXPECT_FALSE(read_net_state(std::span(good).first(1)));
    EXPECT_FALSE(read_net_state(std::span(good).subspan(1)));
}

TEST(NetStateTest, MorePairsThanTheDeviceHadAreRefused) {
    NetState state = sample_state();
    state.shown.queue_pairs = 1;
    EXPECT_FALSE(read_net_state(write_net_state(state)));
}

}  // namespace
}  // namespace outrigger::net
