// SPDX-License-Identifier: Apache-2.0
/// How long a worker looks for work before it sleeps. Looking saves a wake-up (microseconds) when
/// the next request comes soon, and wastes a processor when it does not, so the answer follows what
/// the last idle times were.
#pragma once

#include <algorithm>
#include <chrono>

namespace outrigger {

/// Pure: no clock, no thread.
class AdaptivePolling final {
  public:
    using Duration = std::chrono::nanoseconds;

    /// The budget never exceeds `maximum`; 0 never polls.
    explicit AdaptivePolling(Duration maximum) : maximum_(maximum) {}

    [[nodiscard]] Duration maximum() const { return maximum_; }

    /// How long to look this time.
    [[nodiscard]] Duration budget() const { return budget_; }

    /// Work came after `gap` of idleness, slept or not.
    void on_work_after(Duration gap) {
        if (gap <= budget_) {
            return;  // the look was long enough
        }
        if (gap <= maximum_) {
            // A longer look would have found it.
            budget_ = std::min(std::max(budget_ * 2, kFirstBudget), maximum_);
        } else {
            // No allowed look would have: stop wasting time, in two or three steps so that one
            // pause in a busy stretch does not end the polling.
            budget_ = budget_ / 4 < kFirstBudget / 4 ? Duration::zero() : budget_ / 4;
        }
    }

  private:
    static constexpr Duration kFirstBudget = std::chrono::microseconds(4);

    Duration maximum_;
    Duration budget_{0};
};

}  // namespace outrigger
