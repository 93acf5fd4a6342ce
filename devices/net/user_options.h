// SPDX-License-Identifier: Apache-2.0
/// What the network behind `--backend=user` is like.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <netinet/in.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger::net {

struct Ip4Network {
    in_addr network{};
    in_addr mask{};

    /// The station of that number, counted from the network's own address.
    [[nodiscard]] in_addr host(uint32_t number) const;
};

struct Ip6Network {
    in6_addr prefix{};
    uint8_t prefix_bits = 64;

    /// The station whose last byte is `number`.
    [[nodiscard]] in6_addr host(uint8_t number) const;
};

/// An address of one family and a port, of the host or of the guest.
struct Endpoint {
    bool is_ip6 = false;
    in_addr address4{};
    in6_addr address6{};
    uint16_t port = 0;

    [[nodiscard]] bool has_address() const;
    friend bool operator==(const Endpoint& a, const Endpoint& b);
};

/// A port of the host that leads to one of the guest.
struct Forward {
    bool udp = false;
    Endpoint host{};
    Endpoint guest{};  ///< without an address: the first that DHCP gives
};

struct UserOptions {
    std::optional<Ip4Network> ip4{};
    std::optional<Ip6Network> ip6{};
    std::vector<Forward> forwards{};
    std::optional<Endpoint> dns4{};  ///< the server behind the network's own
    std::optional<Endpoint> dns6{};
    std::vector<std::string> search{};  ///< domains that DHCP tells
    std::string host_name{};            ///< of the guest, as DHCP tells it
    uint16_t mtu = 1500;
    size_t sockets_max = 1023;   ///< of the host, for connections; those of `forwards` apart
    bool host_loopback = false;  ///< the guest reaches the host's own address by that of the router
    bool restricted = false;     ///< nothing but the forwarded ports
    bool merge = true;           ///< segments for the guest into long frames, where it takes them
};

// The numbers that QEMU's user network has made familiar.
inline constexpr uint32_t kRouterNumber = 2;
inline constexpr uint32_t kNameServerNumber = 3;
inline constexpr uint32_t kFirstGuestNumber = 15;

inline constexpr uint16_t kDnsPort = 53;

/// "10.0.2.0/24": at most 28 bits, so that there is a first guest.
[[nodiscard]] std::optional<Ip4Network> parse_ip4_network(std::string_view text);
/// "fd00::/64": 64 bits, because guests make their own addresses in it.
[[nodiscard]] std::optional<Ip6Network> parse_ip6_network(std::string_view text);
/// "192.0.2.1", "192.0.2.1:5353", "[2001:db8::1]:5353", "2001:db8::1".
[[nodiscard]] std::optional<Endpoint> parse_endpoint(std::string_view text, uint16_t port_default);
/// "tcp:8080-80", "udp:0.0.0.0:5353-10.0.2.20:53", "tcp:[::1]:8080-[fd00::20]:80". Without an
/// address of the host it is 127.0.0.1; both are of one family, and IPv6 names the guest's.
[[nodiscard]] std::optional<Forward> parse_forward(std::string_view text);

/// The first name servers of each family in the text of a resolv.conf.
struct NameServers {
    std::optional<Endpoint> dns4{};
    std::optional<Endpoint> dns6{};
};

[[nodiscard]] NameServers parse_resolv_conf(std::string_view text);

}  // namespace outrigger::net
