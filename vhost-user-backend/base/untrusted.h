// SPDX-License-Identifier: Apache-2.0
/// A number that a guest or a front end chose. Its value comes out only through a bound.
#pragma once

#include <concepts>
#include <optional>

namespace outrigger {

template <std::unsigned_integral T>
class Untrusted final {
  public:
    constexpr explicit Untrusted(T raw) : raw_(raw) {}

    /// The value when it is an index below `count`.
    [[nodiscard]] constexpr std::optional<T> index_below(T count) const {
        return raw_ < count ? std::optional<T>(raw_) : std::nullopt;
    }

    /// The value when it is at most `maximum`.
    [[nodiscard]] constexpr std::optional<T> at_most(T maximum) const {
        return raw_ <= maximum ? std::optional<T>(raw_) : std::nullopt;
    }

    /// For log lines and counters only.
    [[nodiscard]] constexpr T for_message() const { return raw_; }

  private:
    T raw_;
};

}  // namespace outrigger
