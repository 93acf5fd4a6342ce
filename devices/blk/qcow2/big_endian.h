// SPDX-License-Identifier: Apache-2.0
/// Numbers as qcow2 stores them: big-endian, at any address.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace outrigger::blk {

/// The number at `offset`, which with its size lies inside `bytes`.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T load_big_endian(std::span<const std::byte> bytes, size_t offset) {
    T value = 0;
    for (const std::byte byte : bytes.subspan(offset, sizeof(T))) {
        value = static_cast<T>((value << 8) | std::to_integer<T>(byte));
    }
    return value;
}

}  // namespace outrigger::blk
