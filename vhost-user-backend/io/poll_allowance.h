// SPDX-License-Identifier: Apache-2.0
/// How much of a processor a worker may spend on looking for work that is not there.
/// AdaptivePolling says for how long a look pays; this says how many of them a host can afford.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace outrigger {

/// A bucket of processor time: it fills with a share of the time that passes. Pure: no clock, no
/// thread.
class PollAllowance final {
  public:
    using Duration = std::chrono::nanoseconds;
    using TimePoint = std::chrono::steady_clock::time_point;

    /// The share holds for stretches of this length; in shorter ones it may be spent at once.
    static constexpr Duration kWindow = std::chrono::milliseconds(10);

    /// `percent` of one processor, at most 100: then nothing is held back.
    explicit PollAllowance(uint32_t percent) : percent_(percent), left_(share_of(kWindow)) {}

    /// How long a look that begins at `now` may last. `now` never goes backwards.
    [[nodiscard]] Duration left(TimePoint now) {
        if (percent_ >= kAll) {
            return Duration::max();
        }
        const Duration passed = std::min<Duration>(now - filled_at_, kWindow);
        filled_at_ = now;
        left_ = std::min(left_ + share_of(passed), share_of(kWindow));
        return std::max(left_, Duration::zero());
    }

    /// A look lasted so long: longer than it might have, if one turn of the loop took its time.
    void spend(Duration looked) { left_ -= looked; }

  private:
    static constexpr uint32_t kAll = 100;

    [[nodiscard]] Duration share_of(Duration time) const {
        return time * static_cast<int64_t>(percent_) / static_cast<int64_t>(kAll);
    }

    uint32_t percent_;
    Duration left_;
    TimePoint filled_at_{};
};

}  // namespace outrigger
