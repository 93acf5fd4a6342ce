// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/crc32c.h"

#include <array>

namespace outrigger {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < table.size(); ++i) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f6'3b78U : 0U);
        }
        table[i] = value;
    }
    return table;
}

constexpr std::array<uint32_t, 256> kTable = make_table();

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
    uint32_t value = ~before;
    for (const std::byte byte : bytes) {
        value = (value >> 8) ^ kTable[(value ^ std::to_integer<uint32_t>(byte)) & 0xff];
    }
    return ~value;
}

}  // namespace outrigger
