// SPDX-License-Identifier: Apache-2.0
/// How long requests took: counts in log-linear buckets, each at most 1/16 of its values wide, so
/// that a percentile is known to about 6 % whatever it is. The ends of buckets include every power
/// of two from 256 ns on.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/counters.h"

namespace outrigger {

/// Written by one thread at a time and read by any, as counters are. Allocates nothing.
class LatencyHistogram final {
  public:
    /// Buckets of each power of two.
    static constexpr size_t kRowBuckets = 16;
    /// The width of the narrowest buckets, of which the first row is made.
    static constexpr uint64_t kUnitNanoseconds = 16;
    /// What took so long, about 137 seconds, or longer is in the last bucket.
    static constexpr uint64_t kNanosecondsMax = uint64_t{1} << 37;
    static constexpr size_t kBuckets =
        kRowBuckets * (std::bit_width(kNanosecondsMax / kUnitNanoseconds / kRowBuckets));

    /// `count` requests took `nanoseconds` each.
    void add(uint64_t nanoseconds, uint64_t count = 1) {
        counts_[bucket_of(nanoseconds)].add(count);
        sum_nanoseconds_.add(nanoseconds * count);
    }

    /// Of all requests together.
    [[nodiscard]] uint64_t sum_nanoseconds() const { return sum_nanoseconds_.value(); }

    [[nodiscard]] uint64_t count_of(size_t bucket) const { return counts_[bucket].value(); }

    /// The first value that is too long for the bucket; of the last one, kNanosecondsMax.
    [[nodiscard]] static constexpr uint64_t end_of(size_t bucket) {
        const size_t row = bucket / kRowBuckets;
        const uint64_t within = bucket % kRowBuckets + 1;
        return row == 0 ? within * kUnitNanoseconds
                        : ((kRowBuckets + within) << (row - 1)) * kUnitNanoseconds;
    }

    [[nodiscard]] static constexpr size_t bucket_of(uint64_t nanoseconds) {
        const uint64_t value = std::min(nanoseconds, kNanosecondsMax - 1) / kUnitNanoseconds;
        if (value < kRowBuckets) {
            return value;
        }
        const auto shift = static_cast<size_t>(std::bit_width(value / kRowBuckets)) - 1;
        // value >> shift lies in [kRowBuckets, 2 * kRowBuckets).
        return (shift + 1) * kRowBuckets + (value >> shift) - kRowBuckets;
    }

  private:
    std::array<Counter, kBuckets> counts_;
    Counter sum_nanoseconds_;
};

}  // namespace outrigger
