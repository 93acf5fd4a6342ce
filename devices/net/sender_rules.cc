// SPDX-License-Identifier: Apache-2.0
#include "devices/net/sender_rules.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <arpa/inet.h>

namespace outrigger::net {

std::optional<MacAddress> parse_mac(std::string_view text) {
    constexpr size_t kTextBytes = 17;
    MacAddress mac{};
    if (text.size() != kTextBytes) {
        return std::nullopt;
    }
    for (size_t i = 0; i < mac.size(); ++i) {
        const std::string_view digits = text.substr(3 * i, 2);
        uint8_t value = 0;
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
        const bool is_separated = i + 1 == mac.size() || text[3 * i + 2] == ':';
        if (error != std::errc() || end != digits.data() + digits.size() || !is_separated) {
            return std::nullopt;
        }
        mac[i] = static_cast<std::byte>(value);
    }
    constexpr std::byte kMulticast{1};
    const bool is_zero = std::ranges::all_of(mac, [](std::byte b) { return b == std::byte{0}; });
    if (is_zero || (mac[0] & kMulticast) != std::byte{0}) {
        return std::nullopt;
    }
    return mac;
}

Result<std::vector<StationAddress>> parse_stations(std::span<const std::string> texts) {
    std::vector<StationAddress> stations;
    for (const std::string& text : texts) {
        const auto mac = parse_mac(text);
        if (!mac) {
            return failure(
                Error{.message = text + " is no address of a station, like 52:54:00:12:34:56"});
        }
        stations.push_back(read_station(*mac, 0));
    }
    return stations;
}

Result<std::vector<IpRange>> parse_ip_ranges(std::span<const std::string> texts) {
    std::vector<IpRange> ranges;
    for (const std::string& text : texts) {
        const auto range = parse_ip_range(text);
        if (!range) {
            return failure(Error{
                .message = text + " is no address or prefix, like 192.0.2.7 or 2001:db8::/32"});
        }
        ranges.push_back(*range);
    }
    return ranges;
}

std::string to_text(StationAddress station) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text(3 * kStationBytes - 1, ':');
    for (size_t i = 0; i < kStationBytes; ++i) {
        const auto byte = static_cast<uint8_t>(station >> 8 * (kStationBytes - 1 - i));
        text[3 * i] = kDigits[byte >> 4];
        text[3 * i + 1] = kDigits[byte & 0xf];
    }
    return text;
}

std::string to_text(const IpRange& range) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const int family = range.is_ip6 ? AF_INET6 : AF_INET;
    if (::inet_ntop(family, range.prefix.data(), text.data(), text.size()) == nullptr) {
        return {};
    }
    const unsigned bits_max = range.is_ip6 ? 128 : 32;
    std::string out(text.data());
    if (range.bits < bits_max) {
        out.append(1, '/').append(std::to_string(range.bits));
    }
    return out;
}

}  // namespace outrigger::net
