// SPDX-License-Identifier: Apache-2.0
/// How long something goes on that may as well be left out.
#pragma once

#include <chrono>
#include <functional>

namespace outrigger::fs {

/// Thread-bound.
class TimeLimit final {
  public:
    using Clock = std::chrono::steady_clock;
    using Now = std::function<Clock::time_point()>;

    /// As long as it takes.
    TimeLimit() = default;

    /// From now on; `now` outlives it.
    TimeLimit(const Now& now, Clock::duration time) : now_(&now), end_(now() + time) {}

    [[nodiscard]] bool has_passed() const { return now_ != nullptr && (*now_)() >= end_; }

  private:
    const Now* now_ = nullptr;
    Clock::time_point end_{};
};

}  // namespace outrigger::fs
