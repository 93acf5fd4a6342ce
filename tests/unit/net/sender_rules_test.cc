// SPDX-License-Identifier: Apache-2.0
#include "devices/net/sender_rules.h"

#include <gtest/gtest.h>

namespace outrigger::net {
namespace {

TEST(ParseMac, TakesSixBytesAndNothingElse) {
    const MacAddress expected{std::byte{0x52},
                              std::byte{0x54},
                              std::byte{0x00},
                              std::byte{0xaB},
                              std::byte{0x34},
                              std::byte{0x56}};
    EXPECT_EQ(parse_mac("52:54:00:ab:34:56"), expected);
    EXPECT_EQ(parse_mac("52:54:00:AB:34:56"), expected);
    for (const char* text : {"",
                             "52:54:00:ab:34",
                             "52:54:00:ab:34:5",
                             "52:54:00:ab:34:567",
                             "52-54-00-ab-34-56",
                             "52:54:00:ab:34:5g",
                             "52:54:00:ab:34: 6",
                             "52:54:00:ab:34:-6"}) {
        EXPECT_FALSE(parse_mac(text)) << text;
    }
}

TEST(ParseMac, RefusesWhatNoStationHas) {
    EXPECT_FALSE(parse_mac("00:00:00:00:00:00"));
    EXPECT_FALSE(parse_mac("ff:ff:ff:ff:ff:ff"));
    EXPECT_FALSE(parse_mac("01:00:5e:00:00:01"));
}

TEST(SenderRules, TextsAreThoseThatWereGiven) {
    const std::vector<std::string> macs = {"52:54:00:ab:cd:0f", "02:00:00:00:00:01"};
    const auto stations = parse_stations(macs);
    ASSERT_TRUE(stations);
    ASSERT_EQ(stations->size(), 2U);
    EXPECT_EQ(to_text((*stations)[0]), macs[0]);
    EXPECT_EQ(to_text((*stations)[1]), macs[1]);
    const std::vector<std::string> addresses = {
        "192.0.2.7", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "fe80::1", "::/0"};
    const auto ranges = parse_ip_ranges(addresses);
    ASSERT_TRUE(ranges);
    for (size_t i = 0; i < addresses.size(); ++i) {
        EXPECT_EQ(to_text(ranges->at(i)), addresses[i]);
    }
}

TEST(SenderRules, WhatIsNoneIsNamed) {
    const std::vector<std::string> macs = {"52:54:00:00:00:01", "01:00:5e:00:00:01"};
    EXPECT_TRUE(parse_stations(macs).error().message.starts_with("01:00:5e:00:00:01 is no"));
    const std::vector<std::string> addresses = {"10.0.0.1", "10.0.0.1/8"};
    EXPECT_TRUE(parse_ip_ranges(addresses).error().message.starts_with("10.0.0.1/8 is no"));
}

}  // namespace
}  // namespace outrigger::net
