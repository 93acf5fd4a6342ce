// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_program.h"

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

}  // namespace
}  // namespace outrigger::net
