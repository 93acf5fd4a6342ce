// SPDX-License-Identifier: Apache-2.0
/// Integers as virtio lays them out in memory: little-endian, whatever the host is, and unaligned.
/// Rings, request headers and configuration spaces are made of these. VIRTIO 1.3, 1.4.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>

namespace outrigger {

template <std::unsigned_integral T>
class [[gnu::packed]] LittleEndian final {
  public:
    constexpr LittleEndian() = default;

    constexpr explicit(false) LittleEndian(T value) : raw_(swap_if_big(value)) {}

    [[nodiscard]] constexpr T value() const { return swap_if_big(raw_); }

    constexpr explicit(false) operator T() const { return value(); }

  private:
    static constexpr T swap_if_big(T value) {
        if constexpr (std::endian::native == std::endian::big && sizeof(T) == 2) {
            return __builtin_bswap16(value);
        } else if constexpr (std::endian::native == std::endian::big && sizeof(T) == 4) {
            return __builtin_bswap32(value);
        } else if constexpr (std::endian::native == std::endian::big && sizeof(T) == 8) {
            return __builtin_bswap64(value);
        } else {
            return value;
        }
    }

    T raw_ = 0;
};

using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;

static_assert(sizeof(Le16) == 2 && sizeof(Le32) == 4 && sizeof(Le64) == 8);

}  // namespace outrigger
