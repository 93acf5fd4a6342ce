// SPDX-License-Identifier: Apache-2.0
/// Names with a number behind them. Written as "f" + std::to_string(1), g++ 12 warns of it without
/// reason (-Wrestrict).
#pragma once

#include <concepts>
#include <string>
#include <string_view>

namespace outrigger::testing {

template <std::integral Number>
[[nodiscard]] std::string numbered(std::string_view name, Number number) {
    std::string out(name);
    out.append(std::to_string(number));
    return out;
}

}  // namespace outrigger::testing
