// SPDX-License-Identifier: Apache-2.0
/// How often, and after which pauses, a system call that the kernel answered with EAGAIN or EINTR
/// is made again.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>

namespace outrigger::blk {

/// Of one call: a few times at once, then with growing pauses. All together about eight seconds.
class IoRetry final {
  public:
    [[nodiscard]] static bool is_for(int32_t result) {
        return result == -EAGAIN || result == -EINTR;
    }

    /// The call came to another end.
    void reset() { attempts_ = 0; }

    /// The pause before the next attempt, 0: none. Nothing: give up.
    [[nodiscard]] std::optional<std::chrono::milliseconds> next() {
        ++attempts_;
        if (attempts_ <= kImmediateMax) {
            return std::chrono::milliseconds(0);
        }
        if (attempts_ > kAttemptsMax) {
            return std::nullopt;
        }
        const uint32_t doublings = std::min(attempts_ - kImmediateMax, kPauseDoublingsMax);
        return std::chrono::milliseconds(uint64_t{1} << doublings);
    }

  private:
    static constexpr uint32_t kImmediateMax = 8;
    static constexpr uint32_t kAttemptsMax = 40;
    static constexpr uint32_t kPauseDoublingsMax = 8;

    uint32_t attempts_ = 0;
};

}  // namespace outrigger::blk
