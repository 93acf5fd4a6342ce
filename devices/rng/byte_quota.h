// SPDX-License-Identifier: Apache-2.0
/// How many bytes may be given out now: a token bucket that holds one period's worth and fills
/// evenly. Pure: time comes in, no clock is read.
#pragma once

#include <chrono>
#include <cstdint>

namespace outrigger::rng {

class ByteQuota final {
  public:
    using TimePoint = std::chrono::steady_clock::time_point;

    /// At most `bytes_max` bytes within each `period`, both above 0. Full at `now`.
    ByteQuota(uint64_t bytes_max, std::chrono::milliseconds period, TimePoint now);

    /// From `now` on. What may be taken at once stays, as far as one period's worth goes.
    void change(uint64_t bytes_max, std::chrono::milliseconds period, TimePoint now);

    /// What may be taken at `now`, in bytes, at most one period's worth.
    [[nodiscard]] uint64_t available(TimePoint now);

    /// Takes `bytes`, at most what available() has just told.
    void take(uint64_t bytes);

    /// When `bytes` (at most one period's worth counts) will be there.
    [[nodiscard]] TimePoint available_at(uint64_t bytes) const;

  private:
    uint64_t bytes_max_;
    std::chrono::nanoseconds period_;
    uint64_t tokens_;
    TimePoint filled_until_;  // time that the tokens account for
};

}  // namespace outrigger::rng
