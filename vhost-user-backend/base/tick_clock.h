// SPDX-License-Identifier: Apache-2.0
/// steady_clock for measuring, by the processor's time-stamp counter: less than half the cost of a
/// look at the clock itself. Only where the kernel keeps its own time by that counter
/// (platform::kernel_counts_ticks()), which it does when all processors agree about it; elsewhere
/// every look is one at the clock.
#pragma once

#include <chrono>
#include <cstdint>

namespace outrigger {

/// The counter and the clock of this machine.
struct SystemTicks {
    [[nodiscard]] static uint64_t ticks() {
#if defined(__x86_64__)
        return __builtin_ia32_rdtsc();
#else
        return 0;
#endif
    }

    [[nodiscard]] static std::chrono::steady_clock::time_point time() {
        return std::chrono::steady_clock::now();
    }
};

/// Thread-bound. Times may lie a microsecond or two before or behind those of steady_clock, and of
/// two looks the second may be the earlier one by as much. `Source` is as SystemTicks.
template <class Source>
class BasicTickClock final {
  public:
    using TimePoint = std::chrono::steady_clock::time_point;

    /// The counter is trusted for so long; then the clock is asked again.
    static constexpr std::chrono::nanoseconds kTrusted = std::chrono::milliseconds(50);
    /// How fast it counts is found out over no less.
    static constexpr std::chrono::nanoseconds kMeasuredMin = std::chrono::milliseconds(20);
    /// And over no more: the machine may have been asleep.
    static constexpr std::chrono::nanoseconds kMeasuredMax = std::chrono::seconds(2);
    /// Ticks between two looks at the counter with one at the clock between them: where there are
    /// more, something else ran meanwhile, and nobody knows what belongs together.
    static constexpr uint64_t kPairTicksMax = 1000;

    explicit BasicTickClock(bool counts_ticks, Source source = {})
        : source_(source), counts_ticks_(counts_ticks) {}

    [[nodiscard]] TimePoint now() {
        if (trusted_ticks_ != 0) {
            const uint64_t since = source_.ticks() - anchor_ticks_;
            if (since < trusted_ticks_) [[likely]] {
                return anchor_ + std::chrono::nanoseconds((since * factor_) >> kFactorBits);
            }
        }
        return counts_ticks_ ? look() : source_.time();
    }

    /// Is it the counter that tells the time?
    [[nodiscard]] bool is_counting() const { return trusted_ticks_ != 0; }

  private:
    static constexpr int kFactorBits = 32;

    [[nodiscard]] TimePoint look() {
        const uint64_t before = source_.ticks();
        const TimePoint time = source_.time();
        const uint64_t ticks = source_.ticks();
        const bool is_pair = ticks - before <= kPairTicksMax;
        const auto passed = time - anchor_;
        const bool is_early = passed < kMeasuredMin;
        if (is_pair && has_anchor_ && is_early && trusted_ticks_ == 0) {
            return time;
        }
        // Early, and yet beyond what was trusted: the counter has jumped.
        const bool is_measured = is_pair && has_anchor_ && !is_early && passed <= kMeasuredMax;
        const uint64_t factor = is_measured ? factor_of(passed, ticks) : 0;
        // A counter that has changed its pace is watched for a while before it is believed.
        const bool agrees = factor != 0 && (factor_ == 0 || differs_little(factor, factor_));
        factor_ = factor;
        trusted_ticks_ =
            agrees ? (static_cast<uint64_t>(kTrusted.count()) << kFactorBits) / factor : 0;
        has_anchor_ = is_pair;
        anchor_ = time;
        anchor_ticks_ = ticks;
        return time;
    }

    /// Nanoseconds a tick, in parts of 2 ^ kFactorBits; 0 where it cannot be.
    [[nodiscard]] uint64_t factor_of(std::chrono::nanoseconds passed, uint64_t ticks) const {
        const uint64_t since = ticks - anchor_ticks_;
        const auto nanoseconds = static_cast<uint64_t>(passed.count());
        // Slower than once in ten nanoseconds, or faster than ten times in one.
        if (since < nanoseconds / 10 || since > nanoseconds * 10) {
            return 0;
        }
        return (nanoseconds << kFactorBits) / since;
    }

    [[nodiscard]] static bool differs_little(uint64_t one, uint64_t other) {
        return (one > other ? one - other : other - one) < other >> 12;
    }

    [[no_unique_address]] Source source_;
    const bool counts_ticks_;
    bool has_anchor_ = false;
    TimePoint anchor_{};
    uint64_t anchor_ticks_ = 0;
    uint64_t factor_ = 0;
    uint64_t trusted_ticks_ = 0;  // 0: the clock is asked
};

using TickClock = BasicTickClock<SystemTicks>;

}  // namespace outrigger
