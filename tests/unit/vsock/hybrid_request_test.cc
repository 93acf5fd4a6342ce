// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/hybrid_request.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

TEST(HybridRequest, NamesAPort) {
    EXPECT_EQ(parse_connect_line("CONNECT 52"), 52U);
    EXPECT_EQ(parse_connect_line("connect 0"), 0U);
    EXPECT_EQ(parse_connect_line("CoNnEcT 4294967295"), 4294967295U);
}

TEST(HybridRequest, BlanksMayBeSeveral) {
    EXPECT_EQ(parse_connect_line("CONNECT   52"), 52U);
    EXPECT_EQ(parse_connect_line("CONNECT\t52 "), 52U);
    EXPECT_EQ(parse_connect_line("CONNECT 52\r"), 52U);
}

TEST(HybridRequest, AnythingElseIsNone) {
    for (const char* line : {"",
                             "CONNECT",
                             "CONNECT ",
                             "CONNECT52",
                             "CONNECTS 52",
                             " CONNECT 52",
                             "CONNECT 52 1",
                             "CONNECT 0x34",
                             "CONNECT +52",
                             "CONNECT -1",
                             "CONNECT 5.2",
                             "CONNECT 4294967296",
                             "CONNECT 99999999999999999999"}) {
        EXPECT_FALSE(parse_connect_line(line)) << line;
    }
    EXPECT_FALSE(parse_connect_line(std::string_view("CONNECT 5\0", 10)));
}

TEST(HybridRequest, ForwardedPortsAreAList) {
    EXPECT_EQ(parse_forwarded_ports("9001"), std::vector<uint32_t>{9001});
    EXPECT_EQ(parse_forwarded_ports("9001+0+4294967294"),
              (std::vector<uint32_t>{9001, 0, 4294967294}));
}

TEST(HybridRequest, WhatIsNoListOfPortsIsRefused) {
    for (const char* text : {"",
                             "+",
                             "1+",
                             "+1",
                             "1++2",
                             "1,2",
                             "1+1",
                             "x",
                             "-1",
                             "4294967295",
                             "1+ 2",
                             "4294967296"}) {
        EXPECT_FALSE(parse_forwarded_ports(text)) << text;
    }
    std::string many = "1";
    for (size_t port = 2; port <= kForwardedPortsMax; ++port) {
        many += "+" + std::to_string(port);
    }
    EXPECT_TRUE(parse_forwarded_ports(many));
    EXPECT_FALSE(parse_forwarded_ports(many + "+99"));
}

TEST(HybridRequest, OkNamesThePortOfTheHost) {
    EXPECT_EQ(make_ok_line(1073741824), "OK 1073741824\n");
}

TEST(HybridRequest, LongestBaseLeavesRoomForThePort) {
    const std::string base(kBasePathBytesMax, 'p');
    EXPECT_TRUE(check_base_path(base));
    EXPECT_EQ(port_path(base, 4294967295).size(), kSocketPathBytesMax);
    EXPECT_LE(seqpacket_path(base).size(), kSocketPathBytesMax);
    EXPECT_FALSE(check_base_path(base + "p"));
    EXPECT_FALSE(check_base_path(""));
}

}  // namespace
}  // namespace outrigger::vsock
