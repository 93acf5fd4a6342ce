// SPDX-License-Identifier: Apache-2.0
/// How long requests took: counts in log-linear buckets, each at most 1/32 of its value wide, so
/// that a percentile is known to about 3 % whatever it is.
///
/// Thread-bound. Allocates nothing.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace outrigger::bench {

class LatencyHistogram final {
  public:
    /// Values below this have a bucket each.
    static constexpr uint64_t kLinearMax = 32;
    /// What is longer is counted as this long: about 18 minutes.
    static constexpr uint64_t kNanosecondsMax = (uint64_t{1} << 40) - 1;

    void record(uint64_t nanoseconds) {
        const uint64_t value = std::min(nanoseconds, kNanosecondsMax);
        ++counts_[bucket_of(value)];
        ++count_;
        sum_ += value;
        max_ = std::max(max_, value);
    }

    void merge(const LatencyHistogram& other) {
        for (size_t i = 0; i < counts_.size(); ++i) {
            counts_[i] += other.counts_[i];
        }
        count_ += other.count_;
        sum_ += other.sum_;
        max_ = std::max(max_, other.max_);
    }

    [[nodiscard]] uint64_t count() const { return count_; }

    [[nodiscard]] uint64_t max() const { return max_; }

    /// 0 when nothing was recorded.
    [[nodiscard]] double mean() const {
        return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
    }

    /// A value that at least that part of all values (0 to 1) do not exceed: the upper end of a
    /// bucket, but never above max(). 0 when nothing was recorded.
    [[nodiscard]] uint64_t quantile(double part) const {
        const double exact = std::ceil(part * static_cast<double>(count_));
        const uint64_t rank = std::clamp<uint64_t>(
            static_cast<uint64_t>(std::max(exact, 0.0)), 1, std::max<uint64_t>(count_, 1));
        uint64_t seen = 0;
        for (size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen >= rank) {
                return std::min(last_value_of(i), max_);
            }
        }
        return max_;
    }

  private:
    static constexpr unsigned kLinearBits = std::bit_width(kLinearMax) - 1;
    // One row of kLinearMax buckets for the linear part, and one for each power of two above it.
    static constexpr size_t kBuckets =
        kLinearMax * (std::bit_width(kNanosecondsMax) - kLinearBits + 1);

    [[nodiscard]] static size_t bucket_of(uint64_t value) {
        if (value < kLinearMax) {
            return value;
        }
        const auto shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kLinearBits;
        // value >> shift lies in [kLinearMax, 2 * kLinearMax).
        return shift * kLinearMax + (value >> shift);
    }

    [[nodiscard]] static uint64_t last_value_of(size_t bucket) {
        if (bucket < 2 * kLinearMax) {
            return bucket;
        }
        const uint64_t shift = bucket / kLinearMax - 1;
        return ((bucket % kLinearMax + kLinearMax + 1) << shift) - 1;
    }

    std::array<uint64_t, kBuckets> counts_{};
    uint64_t count_ = 0;
    uint64_t sum_ = 0;
    uint64_t max_ = 0;
};

}  // namespace outrigger::bench
