// SPDX-License-Identifier: Apache-2.0
#include "devices/net/user_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include <arpa/inet.h>

namespace outrigger::net {
namespace {

constexpr unsigned kIp4BitsMin = 8;
constexpr unsigned kIp4BitsMax = 28;

std::optional<uint32_t> parse_number(std::string_view text, uint32_t max) {
    uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number > max) {
        return std::nullopt;
    }
    return number;
}

std::optional<uint16_t> parse_port(std::string_view text) {
    const auto number = parse_number(text, 0xffff);
    return number && *number > 0 ? std::optional(static_cast<uint16_t>(*number)) : std::nullopt;
}

std::optional<in_addr> parse_ip4(std::string_view text) {
    in_addr address{};
    return ::inet_pton(AF_INET, std::string(text).c_str(), &address) == 1 ? std::optional(address)
                                                                          : std::nullopt;
}

std::optional<in6_addr> parse_ip6(std::string_view text) {
    in6_addr address{};
    return ::inet_pton(AF_INET6, std::string(text).c_str(), &address) == 1 ? std::optional(address)
                                                                           : std::nullopt;
}

/// "ADDRESS:PORT", ":PORT" or "PORT", with brackets around an IPv6 address.
std::optional<Endpoint> parse_place(std::string_view text) {
    Endpoint place;
    const size_t colon = text.rfind(':');
    const auto port = parse_port(colon == std::string_view::npos ? text : text.substr(colon + 1));
    if (!port) {
        return std::nullopt;
    }
    place.port = *port;
    std::string_view address = colon == std::string_view::npos ? "" : text.substr(0, colon);
    if (address.empty()) {
        return place;
    }
    if (address.starts_with('[') && address.ends_with(']')) {
        const auto ip6 = parse_ip6(address.substr(1, address.size() - 2));
        place.is_ip6 = true;
        place.address6 = ip6.value_or(in6_addr{});
        return ip6 ? std::optional(place) : std::nullopt;
    }
    const auto ip4 = parse_ip4(address);
    place.address4 = ip4.value_or(in_addr{});
    return ip4 ? std::optional(place) : std::nullopt;
}

}  // namespace

in_addr Ip4Network::host(uint32_t number) const {
    return {.s_addr = htonl(ntohl(network.s_addr) + number)};
}

in6_addr Ip6Network::host(uint8_t number) const {
    in6_addr address = prefix;
    address.s6_addr[15] = number;
    return address;
}

bool Endpoint::has_address() const {
    return is_ip6 ? std::memcmp(&address6, &in6addr_any, sizeof address6) != 0
                  : address4.s_addr != 0;
}

bool operator==(const Endpoint& a, const Endpoint& b) {
    return a.is_ip6 == b.is_ip6 && a.port == b.port && a.address4.s_addr == b.address4.s_addr &&
           std::memcmp(&a.address6, &b.address6, sizeof a.address6) == 0;
}

std::optional<Ip4Network> parse_ip4_network(std::string_view text) {
    const size_t slash = text.find('/');
    if (slash == std::string_view::npos) {
        return std::nullopt;
    }
    const auto address = parse_ip4(text.substr(0, slash));
    const auto bits = parse_number(text.substr(slash + 1), kIp4BitsMax);
    if (!address || !bits || *bits < kIp4BitsMin) {
        return std::nullopt;
    }
    const in_addr mask{.s_addr = htonl(~uint32_t{0} << (32 - *bits))};
    // Stations are counted from it, so it is one of networks.
    if ((address->s_addr & ~mask.s_addr) != 0) {
        return std::nullopt;
    }
    return Ip4Network{.network = *address, .mask = mask};
}

std::optional<Ip6Network> parse_ip6_network(std::string_view text) {
    constexpr std::string_view kBits = "/64";
    if (!text.ends_with(kBits)) {
        return std::nullopt;
    }
    const auto prefix = parse_ip6(text.substr(0, text.size() - kBits.size()));
    constexpr std::array<uint8_t, 8> kNoStation{};
    if (!prefix || std::memcmp(prefix->s6_addr + 8, kNoStation.data(), kNoStation.size()) != 0) {
        return std::nullopt;
    }
    return Ip6Network{.prefix = *prefix};
}

std::optional<Endpoint> parse_endpoint(std::string_view text, uint16_t port_default) {
    if (const auto ip4 = parse_ip4(text)) {
        return Endpoint{.address4 = *ip4, .port = port_default};
    }
    if (const auto ip6 = parse_ip6(text)) {
        return Endpoint{.is_ip6 = true, .address6 = *ip6, .port = port_default};
    }
    const auto place = parse_place(text);
    return place && place->has_address() ? place : std::nullopt;
}

std::optional<Forward> parse_forward(std::string_view text) {
    Forward forward;
    if (text.starts_with("udp:")) {
        forward.udp = true;
    } else if (!text.starts_with("tcp:")) {
        return std::nullopt;
    }
    text.remove_prefix(4);
    const size_t dash = text.find('-');
    if (dash == std::string_view::npos) {
        return std::nullopt;
    }
    const auto host = parse_place(text.substr(0, dash));
    const auto guest = parse_place(text.substr(dash + 1));
    if (!host || !guest) {
        return std::nullopt;
    }
    forward.host = *host;
    forward.guest = *guest;
    const bool names_host =
        text.substr(0, dash).find(':') != std::string_view::npos && !text.starts_with(':');
    if (!names_host) {
        forward.host.is_ip6 = forward.guest.is_ip6;
        forward.host.address4.s_addr = htonl(INADDR_LOOPBACK);
        forward.host.address6 = in6addr_loopback;
    }
    if (forward.host.is_ip6 != forward.guest.is_ip6 ||
        (forward.guest.is_ip6 && !forward.guest.has_address())) {
        return std::nullopt;
    }
    return forward;
}

NameServers parse_resolv_conf(std::string_view text) {
    NameServers servers;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        constexpr std::string_view kWord = "nameserver";
        if (!line.starts_with(kWord)) {
            continue;
        }
        line.remove_prefix(kWord.size());
        const size_t begin = line.find_first_not_of(" \t");
        if (begin == 0 || begin == std::string_view::npos) {
            continue;
        }
        line.remove_prefix(begin);
        line = line.substr(0, line.find_first_of(" \t\r"));
        const auto server = parse_endpoint(line, kDnsPort);
        if (server && server->is_ip6 && !servers.dns6) {
            servers.dns6 = server;
        } else if (server && !server->is_ip6 && !servers.dns4) {
            servers.dns4 = server;
        }
    }
    return servers;
}

}  // namespace outrigger::net
