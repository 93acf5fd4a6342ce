// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/byte_quota.h"

#include <algorithm>

#include "vhost-user-backend/base/error.h"

namespace outrigger::rng {
namespace {

/// 128 bits: bytes times nanoseconds of a long period do not fit 64.
__extension__ using Wide = unsigned __int128;

}  // namespace

ByteQuota::ByteQuota(uint64_t bytes_max, std::chrono::milliseconds period, TimePoint now)
    : bytes_max_(bytes_max), period_(period), tokens_(bytes_max), filled_until_(now) {
    OUTRIGGER_ASSERT(bytes_max > 0 && period.count() > 0);
}

void ByteQuota::change(uint64_t bytes_max, std::chrono::milliseconds period, TimePoint now) {
    OUTRIGGER_ASSERT(bytes_max > 0 && period.count() > 0);
    tokens_ = std::min(available(now), bytes_max);
    filled_until_ = now;
    bytes_max_ = bytes_max;
    period_ = period;
}

uint64_t ByteQuota::available(TimePoint now) {
    if (now <= filled_until_) {
        return tokens_;
    }
    const auto period_ns = static_cast<uint64_t>(period_.count());
    const auto elapsed_ns = static_cast<uint64_t>(
        std::min(std::chrono::nanoseconds(now - filled_until_), period_).count());
    const auto earned = static_cast<uint64_t>(Wide{elapsed_ns} * bytes_max_ / period_ns);
    if (earned >= bytes_max_ - tokens_) {
        tokens_ = bytes_max_;
        filled_until_ = now;
        return tokens_;
    }
    tokens_ += earned;
    // Only the time that made whole bytes is spent; the rest goes on counting.
    filled_until_ +=
        std::chrono::nanoseconds(static_cast<int64_t>(Wide{earned} * period_ns / bytes_max_));
    return tokens_;
}

void ByteQuota::take(uint64_t bytes) {
    OUTRIGGER_ASSERT(bytes <= tokens_);
    tokens_ -= bytes;
}

ByteQuota::TimePoint ByteQuota::available_at(uint64_t bytes) const {
    const uint64_t wanted = std::min(bytes, bytes_max_);
    if (wanted <= tokens_) {
        return filled_until_;
    }
    const auto period_ns = static_cast<uint64_t>(period_.count());
    const Wide wait_ns = (Wide{wanted - tokens_} * period_ns + bytes_max_ - 1) / bytes_max_;
    return filled_until_ + std::chrono::nanoseconds(static_cast<int64_t>(wait_ns));
}

}  // namespace outrigger::rng
