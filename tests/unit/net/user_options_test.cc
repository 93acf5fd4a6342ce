// SPDX-License-Identifier: Apache-2.0
#include "devices/net/user_options.h"

#include <cstring>

#include <arpa/inet.h>

#include <gtest/gtest.h>

namespace outrigger::net {
namespace {

in_addr ip4(const char* text) {
    in_addr address{};
    EXPECT_EQ(::inet_pton(AF_INET, text, &address), 1);
    return address;
}

in6_addr ip6(const char* text) {
    in6_addr address{};
    EXPECT_EQ(::inet_pton(AF_INET6, text, &address), 1);
    return address;
}

Endpoint place4(const char* text, uint16_t port) {
    return {.address4 = ip4(text), .port = port};
}

Endpoint place6(const char* text, uint16_t port) {
    return {.is_ip6 = true, .address6 = ip6(text), .port = port};
}

TEST(ParseIp4Network, IsAnAddressWithoutAStation) {
    const auto network = parse_ip4_network("10.1.2.0/24");
    ASSERT_TRUE(network);
    EXPECT_EQ(network->mask.s_addr, ip4("255.255.255.0").s_addr);
    EXPECT_EQ(network->host(kRouterNumber).s_addr, ip4("10.1.2.2").s_addr);
    EXPECT_TRUE(parse_ip4_network("192.168.0.32/28"));
    EXPECT_TRUE(parse_ip4_network("10.0.0.0/8"));
    for (const char* text : {"",
                             "10.1.2.0",
                             "10.1.2.0/",
                             "10.1.2.1/24",
                             "10.1.2.0/29",
                             "10.1.2.0/7",
                             "10.1.2.0/33",
                             "10.1.2/24",
                             "10.1.2.0/24 ",
                             "fd00::/64"}) {
        EXPECT_FALSE(parse_ip4_network(text)) << text;
    }
}

TEST(ParseIp6Network, HasSixtyFourBits) {
    const auto network = parse_ip6_network("fd00:1::/64");
    ASSERT_TRUE(network);
    const in6_addr router = network->host(kRouterNumber);
    const in6_addr expected = ip6("fd00:1::2");
    EXPECT_EQ(std::memcmp(&router, &expected, sizeof router), 0);
    for (const char* text : {"", "fd00::", "fd00::/63", "fd00::/65", "fd00::1/64", "10.0.0.0/64"}) {
        EXPECT_FALSE(parse_ip6_network(text)) << text;
    }
}

TEST(ParseEndpoint, PortIsOptional) {
    EXPECT_EQ(parse_endpoint("192.0.2.1", 53), place4("192.0.2.1", 53));
    EXPECT_EQ(parse_endpoint("192.0.2.1:5353", 53), place4("192.0.2.1", 5353));
    EXPECT_EQ(parse_endpoint("2001:db8::1", 53), place6("2001:db8::1", 53));
    EXPECT_EQ(parse_endpoint("[2001:db8::1]:5353", 53), place6("2001:db8::1", 5353));
    for (const char* text : {"",
                             "53",
                             ":53",
                             "192.0.2.1:",
                             "192.0.2.1:0",
                             "192.0.2.1:65536",
                             "[192.0.2.1]:53",
                             "[2001:db8::1]",
                             "example.org"}) {
        EXPECT_FALSE(parse_endpoint(text, 53)) << text;
    }
}

TEST(ParseForward, DefaultsAreThisHostAndTheFirstGuest) {
    const auto plain = parse_forward("tcp:8080-80");
    ASSERT_TRUE(plain);
    EXPECT_FALSE(plain->udp);
    EXPECT_EQ(plain->host.address4.s_addr, htonl(INADDR_LOOPBACK));
    EXPECT_EQ(plain->host.port, 8080);
    EXPECT_FALSE(plain->guest.has_address());
    EXPECT_EQ(plain->guest.port, 80);

    const auto full = parse_forward("udp:0.0.0.0:5353-10.0.2.20:53");
    ASSERT_TRUE(full);
    EXPECT_TRUE(full->udp);
    EXPECT_EQ(full->host, place4("0.0.0.0", 5353));
    EXPECT_EQ(full->guest, place4("10.0.2.20", 53));

    const auto six = parse_forward("tcp:[::]:8080-[fd00::20]:80");
    ASSERT_TRUE(six);
    EXPECT_EQ(six->host, place6("::", 8080));
    EXPECT_EQ(six->guest, place6("fd00::20", 80));

    const auto loopback = parse_forward("tcp:8080-[fd00::20]:80");
    ASSERT_TRUE(loopback);
    EXPECT_TRUE(loopback->host.is_ip6);
    EXPECT_EQ(std::memcmp(&loopback->host.address6, &in6addr_loopback, sizeof(in6_addr)), 0);
}

TEST(ParseForward, RefusesWhatIsNoRule) {
    for (const char* text : {"",
                             "tcp",
                             "tcp:",
                             "tcp:80",
                             "tcp:80-",
                             "tcp:-80",
                             "tcp:0-80",
                             "tcp:80-65536",
                             "icmp:80-80",
                             "tcp:80-80-80",
                             "tcp:1.2.3:80-80",
                             "tcp:127.0.0.1:80-[fd00::20]:80",
                             "tcp:[::1]:80-10.0.2.15:80",
                             "tcp:[::1]:80-80",
                             "tcp:8080-[::]:80"}) {
        EXPECT_FALSE(parse_forward(text)) << text;
    }
}

TEST(ParseResolvConf, TakesTheFirstOfEachFamily) {
    const auto servers = parse_resolv_conf(
        "# nameserver 192.0.2.9\n"
        "search example.org\n"
        "nameserver\t2001:db8::1\r\n"
        "nameserverx 192.0.2.8\n"
        "nameserver  192.0.2.1 # ours\n"
        "nameserver 192.0.2.2\n"
        "nameserver fe80::1%eth0");
    EXPECT_EQ(servers.dns4, place4("192.0.2.1", 53));
    EXPECT_EQ(servers.dns6, place6("2001:db8::1", 53));
    EXPECT_FALSE(parse_resolv_conf("").dns4);
    EXPECT_FALSE(parse_resolv_conf("nameserver").dns4);
    EXPECT_FALSE(parse_resolv_conf("nameserver ").dns4);
    EXPECT_FALSE(parse_resolv_conf("nameserver localhost\n").dns4);
}

}  // namespace
}  // namespace outrigger::net
