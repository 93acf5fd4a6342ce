// SPDX-License-Identifier: Apache-2.0
/// How long a thread has worked, by the clock on the wall: looks for work and sleep do not count.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace outrigger {

/// Written by one thread, read by any, also while a stretch of work goes on. It carries no
/// ordering.
class BusyTime final {
  public:
    using Time = std::chrono::steady_clock::time_point;
    using Duration = std::chrono::nanoseconds;

    /// Work began at `now`. Not while it goes on.
    void begin(Time now) { store(load() / 2 - nanoseconds(now), true); }

    /// It ended at `now`, which is not before it began.
    void end(Time now) { store((load() - 1) / 2 + nanoseconds(now), false); }

    /// Until `now`. The thread may have begun a stretch since then: that counts as nothing, and
    /// never makes the time less than 0.
    [[nodiscard]] Duration until(Time now) const {
        const int64_t value = load();
        // The mark goes before the division, which rounds towards 0.
        const int64_t time = (value & 1) == 0 ? value / 2 : (value - 1) / 2 + nanoseconds(now);
        return Duration(std::max(time, int64_t{0}));
    }

  private:
    [[nodiscard]] static int64_t nanoseconds(Time time) {
        return std::chrono::duration_cast<Duration>(time.time_since_epoch()).count();
    }

    [[nodiscard]] int64_t load() const { return value_.load(std::memory_order_relaxed); }

    void store(int64_t time, bool works) {
        value_.store(time * 2 + (works ? 1 : 0), std::memory_order_relaxed);
    }

    // Twice the time worked, or, while it works and with the lowest bit set, that time less the
    // time at which it began: one word, so that a reader never sees half a change.
    std::atomic<int64_t> value_ = 0;
};

}  // namespace outrigger
