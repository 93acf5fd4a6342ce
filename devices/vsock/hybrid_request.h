// SPDX-License-Identifier: Apache-2.0
/// What a client of the hybrid socket says first: "CONNECT <port>\n", as Firecracker's users know
/// it. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vsock {

/// Longest line with its newline: the word, a blank, ten digits, and some room for more blanks.
inline constexpr size_t kHybridLineBytesMax = 32;

/// The port that `line` (without its newline) asks for; nothing when it is no such request. The
/// word may be in any case, blanks may be several, and a carriage return may end the line.
[[nodiscard]] std::optional<uint32_t> parse_connect_line(std::string_view line);

/// Ports of --forward-listen: "9001+9002". Nothing: it is no list of different ports, or has more
/// than that.
inline constexpr size_t kForwardedPortsMax = 64;
[[nodiscard]] std::optional<std::vector<uint32_t>> parse_forwarded_ports(std::string_view text);

/// "OK <port>\n".
[[nodiscard]] std::string make_ok_line(uint32_t port);

/// Unix sockets have room for so much of a path, without the final zero.
inline constexpr size_t kSocketPathBytesMax = 107;
/// "_4294967295", and "_seqpacket".
inline constexpr size_t kSuffixBytesMax = 11;
inline constexpr size_t kBasePathBytesMax = kSocketPathBytesMax - kSuffixBytesMax;

/// Can sockets be made from this base?
[[nodiscard]] Result<void> check_base_path(std::string_view base);

/// Where the host's program listens for the guest's connections to `port`.
[[nodiscard]] std::string port_path(std::string_view base, uint32_t port);

/// Where we listen for SOCK_SEQPACKET clients.
[[nodiscard]] std::string seqpacket_path(std::string_view base);

}  // namespace outrigger::vsock
