// SPDX-License-Identifier: Apache-2.0
/// How much a disk, or a group of disks, may do in a second: token buckets for bytes and for
/// operations, of both directions together and of each.
///
/// A bucket is paid after the fact. A request is let through as long as no debt keeps its queue,
/// and is then charged; its queue goes on when everything that was charged until then is paid for.
/// So a request may be larger than the burst, nothing is held to learn its size, and queues of any
/// number and on any threads have their turns in the order in which they were charged: a queue that
/// waits has one request's debt, and nobody gets two requests while it does.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace outrigger::blk {

/// Nanoseconds of the steady clock. Far in the past: no debt.
using LimitTime = int64_t;

[[nodiscard]] LimitTime limit_time_now();

struct Rate {
    uint64_t per_second = 0;  ///< 0: no limit
    uint64_t burst = 0;       ///< what may pass at once after a pause; 0: a tenth of per_second

    friend bool operator==(const Rate&, const Rate&) = default;
};

struct RateLimits {
    Rate bytes{};
    Rate read_bytes{};
    Rate write_bytes{};
    Rate operations{};
    Rate read_operations{};
    Rate write_operations{};

    friend bool operator==(const RateLimits&, const RateLimits&) = default;
};

/// "100M" or "100M:1G": a rate, and a burst behind a colon, with suffixes of 1024. Nothing when it
/// is no such text.
[[nodiscard]] std::optional<Rate> parse_rate(std::string_view text);

/// One bucket. Any thread, without locks.
class TokenBucket final {
  public:
    /// Full afterwards, whatever debt there was.
    void set(const Rate& rate);

    [[nodiscard]] bool is_limited() const {
        return per_second_.load(std::memory_order_relaxed) != 0;
    }

    /// Takes `amount`, and says when all that was taken is paid for: at or before `now`, there is
    /// no debt. One request costs an hour at most.
    [[nodiscard]] LimitTime charge(uint64_t amount, LimitTime now);

    /// The same without taking anything.
    [[nodiscard]] LimitTime paid_at() const;

  private:
    // Plain values; a change may be seen a request late, and set() is followed by a task on every
    // worker.
    std::atomic<uint64_t> per_second_ = 0;
    std::atomic<int64_t> burst_time_ = 0;  // in which the bucket fills
    std::atomic<LimitTime> paid_at_ = INT64_MIN;
};

enum class Direction : uint8_t { kRead, kWrite };
inline constexpr size_t kDirectionCount = 2;

/// When a queue may go on.
struct Allowance {
    LimitTime both = INT64_MIN;       ///< with requests of any kind
    LimitTime direction = INT64_MIN;  ///< with requests of that direction
};

/// The buckets of one disk, or of a group of disks.
class RateLimiter final {
  public:
    explicit RateLimiter(std::string group = {}) : group_(std::move(group)) {}

    /// Empty: of one disk alone.
    [[nodiscard]] const std::string& group() const { return group_; }

    // Of the control thread.
    void set(const RateLimits& limits);

    [[nodiscard]] const RateLimits& limits() const { return limits_; }

    // Of any thread.
    [[nodiscard]] bool is_limited() const { return limited_.load(std::memory_order_relaxed); }

    /// One operation of so many bytes.
    [[nodiscard]] Allowance charge(Direction direction, uint64_t bytes, LimitTime now);

    /// What a queue that begins has to wait for: it must not escape a debt by starting anew.
    [[nodiscard]] Allowance debt(Direction direction) const;

  private:
    const std::string group_;
    RateLimits limits_;  // control thread
    std::atomic<bool> limited_ = false;
    TokenBucket bytes_;
    TokenBucket operations_;
    TokenBucket bytes_of_[kDirectionCount];
    TokenBucket operations_of_[kDirectionCount];
};

}  // namespace outrigger::blk
