// SPDX-License-Identifier: Apache-2.0
/// Frames for tests of network devices, and what is right about them: written from the RFCs, byte
/// by byte, and sharing nothing with the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace outrigger::testing {

struct FrameOptions {
    bool ip6 = false;
    bool udp = false;
    int vlan_tags = 0;
    size_t ip_option_bytes = 0;           ///< IPv4: a multiple of 4, at most 40
    size_t tcp_option_bytes = 0;          ///< a multiple of 4, at most 40
    bool hop_by_hop = false;              ///< IPv6: an extension header
    size_t destination_option_bytes = 0;  ///< IPv6: one of so many bytes, a multiple of 8
    uint16_t source_port = 4000;
    uint16_t destination_port = 5000;
    uint32_t sequence = 1000;
    uint32_t acknowledged = 1;
    /// Of stations, as they lie in packets; empty: those of the comment below.
    std::string source{};
    std::string destination{};
    std::string to_mac{"\x52\x54\0\0\0\x02", 6};
    uint8_t tcp_flags = 0x18;  ///< ACK and PSH
    uint16_t identity = 77;    ///< IPv4
    uint16_t window = 1024;
    /// As a driver leaves it: the checksum field has the sum of the pseudo header.
    bool partial_checksum = false;
};

/// TCP or UDP from 10.0.0.1 to 10.0.0.2, or fd00::1 to fd00::2, with right lengths and checksums.
[[nodiscard]] std::string make_frame(std::string_view payload, const FrameOptions& options = {});

/// The part of what an IPv4 packet carries from byte `begin` to `end`, as a fragment of its own.
[[nodiscard]] std::string fragment_of(std::string_view frame, size_t begin, size_t end);

/// What a frame is, as far as it is right.
struct ReadFrame {
    size_t transport_start = 0;
    size_t payload_start = 0;
    std::string payload{};
    uint32_t sequence = 0;
    uint32_t acknowledged = 0;
    uint16_t source_port = 0;
    uint16_t destination_port = 0;
    std::string source{};
    std::string destination{};
    uint8_t tcp_flags = 0;
    uint16_t identity = 0;
    bool is_udp = false;
};

/// Nothing when a length or a checksum is wrong, or it is neither TCP nor UDP.
[[nodiscard]] std::optional<ReadFrame> read_frame(std::string_view frame);

/// Where the headers of a frame made with these options end, and where its transport begins.
[[nodiscard]] size_t transport_start_of(const FrameOptions& options);

/// Bytes that differ from place to place.
[[nodiscard]] std::string make_payload(size_t bytes, uint32_t seed = 12345);

}  // namespace outrigger::testing
