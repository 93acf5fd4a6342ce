// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/state/crc32c.h"

#include <array>

namespace outrigger {
namespace {

/// The polynomial with its bits reversed.
constexpr uint32_t kPolynomial = 0x82f6'3b78;

constexpr auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < table.size(); ++byte) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; ++bit) {
            rest = rest >> 1 ^ ((rest & 1) != 0 ? kPolynomial : 0);
        }
        table[byte] = rest;
    }
    return table;
}();

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
    uint32_t rest = ~before;
    for (const std::byte byte : bytes) {
        rest = rest >> 8 ^ kTable[(rest ^ std::to_integer<uint32_t>(byte)) & 0xff];
    }
    return ~rest;
}

}  // namespace outrigger
