// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/rate_limit.h"

#include <algorithm>
#include <charconv>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kNanoseconds = 1'000'000'000;

/// Of one request, and of a burst. It keeps sums far from overflow, whatever rate was chosen.
constexpr uint64_t kTimeMax = 3600 * kNanoseconds;

/// Requests that were let through early, when a queue had to end, are charged all the same.
constexpr auto kDebtTimeMax = static_cast<int64_t>(24 * kTimeMax);

/// Above what any request moves; with it the product below fits.
constexpr uint64_t kAmountMax = uint64_t{1} << 33;

int64_t time_for(uint64_t amount, uint64_t per_second) {
    // A burst may be longer than a request: seconds and the rest apart.
    const uint64_t seconds = std::min(amount / per_second, kTimeMax / kNanoseconds);
    const uint64_t rest = amount % per_second;
    const uint64_t part = rest < kAmountMax
                              ? rest * kNanoseconds / per_second
                              : rest / std::max<uint64_t>(per_second / kNanoseconds, 1);
    return static_cast<int64_t>(std::min(seconds * kNanoseconds + part, kTimeMax));
}

std::optional<uint64_t> parse_amount(std::string_view text) {
    constexpr std::string_view kSuffixes = "KMGT";
    uint64_t unit = 1;
    if (!text.empty()) {
        const size_t power = kSuffixes.find(static_cast<char>(text.back() & ~0x20));
        if (power != std::string_view::npos) {
            unit = uint64_t{1} << 10 * (power + 1);
            text.remove_suffix(1);
        }
    }
    uint64_t count = 0;
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, count);
    if (error != std::errc() || rest != end) {
        return std::nullopt;
    }
    return checked_multiply(count, unit);
}

}  // namespace

LimitTime limit_time_now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

std::optional<Rate> parse_rate(std::string_view text) {
    const size_t colon = text.find(':');
    const auto per_second = parse_amount(text.substr(0, colon));
    const auto burst = colon == std::string_view::npos ? std::optional<uint64_t>(0)
                                                       : parse_amount(text.substr(colon + 1));
    if (!per_second || !burst || (*per_second == 0 && *burst != 0)) {
        return std::nullopt;
    }
    return Rate{.per_second = *per_second, .burst = *burst};
}

void TokenBucket::set(const Rate& rate) {
    const uint64_t burst = rate.burst != 0 ? rate.burst : rate.per_second / 10;
    burst_time_.store(rate.per_second != 0 ? time_for(burst, rate.per_second) : 0,
                      std::memory_order_relaxed);
    paid_at_.store(INT64_MIN, std::memory_order_relaxed);
    per_second_.store(rate.per_second, std::memory_order_relaxed);
}

LimitTime TokenBucket::charge(uint64_t amount, LimitTime now) {
    const uint64_t per_second = per_second_.load(std::memory_order_relaxed);
    if (per_second == 0) {
        return INT64_MIN;
    }
    const int64_t cost = time_for(amount, per_second);
    const LimitTime full_at = now - burst_time_.load(std::memory_order_relaxed);
    LimitTime before = paid_at_.load(std::memory_order_relaxed);
    LimitTime after = 0;
    do {
        after = std::min(std::max(before, full_at) + cost, now + kDebtTimeMax);
    } while (!paid_at_.compare_exchange_weak(before, after, std::memory_order_relaxed));
    return after;
}

LimitTime TokenBucket::paid_at() const {
    return is_limited() ? paid_at_.load(std::memory_order_relaxed) : INT64_MIN;
}

void RateLimiter::set(const RateLimits& limits) {
    limits_ = limits;
    bytes_.set(limits.bytes);
    operations_.set(limits.operations);
    bytes_of_[0].set(limits.read_bytes);
    bytes_of_[1].set(limits.write_bytes);
    operations_of_[0].set(limits.read_operations);
    operations_of_[1].set(limits.write_operations);
    limited_.store(limits != RateLimits{}, std::memory_order_relaxed);
}

Allowance RateLimiter::charge(Direction direction, uint64_t bytes, LimitTime now) {
    const auto which = static_cast<size_t>(direction);
    Allowance allowance;
    allowance.both = std::max(bytes_.charge(bytes, now), operations_.charge(1, now));
    allowance.direction =
        std::max(bytes_of_[which].charge(bytes, now), operations_of_[which].charge(1, now));
    return allowance;
}

Allowance RateLimiter::debt(Direction direction) const {
    const auto which = static_cast<size_t>(direction);
    return {.both = std::max(bytes_.paid_at(), operations_.paid_at()),
            .direction = std::max(bytes_of_[which].paid_at(), operations_of_[which].paid_at())};
}

}  // namespace outrigger::blk
