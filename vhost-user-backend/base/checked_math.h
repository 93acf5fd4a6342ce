// SPDX-License-Identifier: Apache-2.0
/// Arithmetic on numbers that a peer chose: every overflow is a value, never a wrap.
#pragma once

#include <concepts>
#include <optional>

namespace outrigger {

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_add(T left, T right) {
    T sum;
    if (__builtin_add_overflow(left, right, &sum)) {
        return std::nullopt;
    }
    return sum;
}

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_multiply(T left, T right) {
    T product;
    if (__builtin_mul_overflow(left, right, &product)) {
        return std::nullopt;
    }
    return product;
}

/// Does [offset, offset + length) lie inside [0, size)? Cannot overflow.
template <std::unsigned_integral T>
[[nodiscard]] constexpr bool range_fits(T offset, T length, T size) {
    return offset <= size && length <= size - offset;
}

/// `value` rounded down and up to a multiple of `alignment`, a power of two. Rounding up a value
/// near the type's maximum gives nullopt.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T align_down(T value, T alignment) {
    return value & ~(alignment - 1);
}

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> align_up(T value, T alignment) {
    const auto padded = checked_add<T>(value, alignment - 1);
    if (!padded) {
        return std::nullopt;
    }
    return align_down(*padded, alignment);
}

template <std::unsigned_integral T>
[[nodiscard]] constexpr bool is_power_of_two(T value) {
    return value != 0 && (value & (value - 1)) == 0;
}

}  // namespace outrigger
