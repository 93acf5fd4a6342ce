// SPDX-License-Identifier: Apache-2.0
/// How much may pass in a second, with bursts.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "devices/net/frame.h"

namespace outrigger::net {

/// In a second: more than any guest moves.
inline constexpr uint64_t kPerSecondMax = uint64_t{1} << 40;

/// Of bytes or of frames. What passes takes time: the next may pass when that is over.
class RateLimit final {
  public:
    using Clock = std::chrono::steady_clock;

    static constexpr Clock::duration kBurst = std::chrono::milliseconds(100);

    /// 0: there is no limit. Else at most kPerSecondMax. `burst`: what passes in so long may pass
    /// at once.
    explicit RateLimit(uint64_t per_second = 0, Clock::duration burst = kBurst)
        : per_second_(per_second), burst_(burst) {}

    /// When the next may pass; it may be longer than the burst, and takes the longer for it.
    [[nodiscard]] Clock::time_point free_at() const { return free_at_; }

    /// At most 4 GiB.
    void take(uint64_t amount, Clock::time_point now) {
        if (per_second_ == 0) {
            return;
        }
        constexpr uint64_t kNanoseconds = 1'000'000'000;
        const auto cost = std::chrono::nanoseconds(
            static_cast<int64_t>((amount * kNanoseconds + per_second_ - 1) / per_second_));
        free_at_ =
            std::max(free_at_, now - burst_) + std::chrono::duration_cast<Clock::duration>(cost);
    }

  private:
    uint64_t per_second_;
    Clock::duration burst_;
    Clock::time_point free_at_{};
};

/// One way.
class FrameLimits final {
  public:
    struct PerSecond {
        uint64_t bytes = 0;   ///< 0: no limit
        uint64_t frames = 0;  ///< a frame that is to be cut counts as what it becomes

        [[nodiscard]] bool any() const { return bytes > 0 || frames > 0; }

        friend bool operator==(const PerSecond&, const PerSecond&) = default;
    };

    FrameLimits() = default;

    explicit FrameLimits(const PerSecond& limits) : bytes_(limits.bytes), frames_(limits.frames) {}

    [[nodiscard]] RateLimit::Clock::time_point free_at() const {
        return std::max(bytes_.free_at(), frames_.free_at());
    }

    void take(const Frame& frame, RateLimit::Clock::time_point now) {
        const uint64_t each = frame.offload.segment_bytes;
        const bool is_cut = frame.offload.segmentation != Segmentation::kNone && each > 0;
        bytes_.take(frame.bytes, now);
        frames_.take(is_cut ? (frame.bytes + each - 1) / each : 1, now);
    }

  private:
    RateLimit bytes_;
    RateLimit frames_;
};

}  // namespace outrigger::net
