// SPDX-License-Identifier: Apache-2.0
/// Waiting for what another thread will do: until it is so, or a generous limit.
#pragma once

#include <chrono>
#include <concepts>
#include <thread>

namespace outrigger::testing {

/// Far longer than anything here takes, also under sanitizers on a busy machine.
inline constexpr std::chrono::seconds kPatience{20};

/// True as soon as `condition` holds; false when it did not within kPatience.
template <std::predicate Condition>
[[nodiscard]] bool eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > deadline) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

/// For what must not happen: long enough for it to show on most runs, never a reason to fail one.
inline void give_others_a_moment() {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

}  // namespace outrigger::testing
