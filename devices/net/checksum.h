// SPDX-License-Identifier: Apache-2.0
/// The checksum of IP, TCP and UDP. RFC 1071.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace outrigger::net {

/// Adds 16-bit words in the byte order of this machine, which RFC 1071 (2.B) allows: the result
/// only has to be stored in the same order. `bytes` starts at an even offset of what is summed, and
/// only the last one may be of odd length.
[[nodiscard]] inline uint64_t add_to_sum(uint64_t sum, std::span<const std::byte> bytes) {
    const std::byte* at = bytes.data();
    size_t left = bytes.size();
    // 32 bits at a time: 64 KiB of them are far from an overflow of 64.
    for (; left >= 4; left -= 4, at += 4) {
        uint32_t word = 0;
        std::memcpy(&word, at, sizeof word);
        sum += word;
    }
    if (left >= 2) {
        uint16_t word = 0;
        std::memcpy(&word, at, sizeof word);
        sum += word;
        left -= 2;
        at += 2;
    }
    if (left == 1) {
        const std::byte last[2] = {*at, std::byte{0}};
        uint16_t word = 0;
        std::memcpy(&word, last, sizeof word);
        sum += word;
    }
    return sum;
}

/// As a 16-bit word of the packet: in the order in which it is stored.
[[nodiscard]] inline uint16_t fold_sum(uint64_t sum) {
    sum = (sum & 0xffff'ffff) + (sum >> 32);
    sum = (sum & 0xffff'ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(sum);
}

/// What is stored in a packet: the complement.
[[nodiscard]] inline uint16_t finish_sum(uint64_t sum) {
    return static_cast<uint16_t>(~fold_sum(sum));
}

}  // namespace outrigger::net
