// SPDX-License-Identifier: Apache-2.0
/// Measures requests by batches: requests that were taken at one time and answered at one time need
/// one look at the clock at either end and one entry in the histogram, however many they are. Where
/// no earlier request is in flight, those that a batch answers are its own: then they need not be
/// looked at one by one.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/latency_histogram.h"

namespace outrigger {

/// Thread-bound: queue worker. Allocates nothing.
class LatencyMeter final {
  public:
    using Clock = std::chrono::steady_clock;

    /// Requests that are taken from now on were taken at `now`. So many are in flight, and so many
    /// were answered since ever.
    void begin_batch(Clock::time_point now, uint32_t in_flight, uint64_t answered) {
        if (!looks_at_each_ && answered != answered_before_) {
            keep_run(answered - answered_before_);  // of the batch before, and not visible yet
        }
        taken_at_ = nanoseconds(now);
        looks_at_each_ = in_flight > 0;
        answered_before_ = answered;
    }

    /// What a request carries until it is answered.
    [[nodiscard]] int64_t taken_at() const { return taken_at_; }

    /// Is each request that is answered to be noted? Else end_batch() knows it by their number.
    [[nodiscard]] bool looks_at_each() const { return looks_at_each_; }

    /// A request of that time is answered. True: there is no room for the next one, so the batch
    /// must end here.
    [[nodiscard]] bool note_answered(int64_t taken_at) {
        if (run_count_ > 0 && runs_[run_count_ - 1].taken_at == taken_at) {
            ++runs_[run_count_ - 1].requests;
            return false;
        }
        runs_[run_count_++] = {.taken_at = taken_at, .requests = 1};
        return run_count_ == runs_.size();
    }

    /// So many were answered since ever: is there one that was not measured?
    [[nodiscard]] bool has_answered(uint64_t answered) const {
        return run_count_ > 0 || (!looks_at_each_ && answered != answered_before_);
    }

    /// What was answered, so many since ever, is visible since `now`.
    void end_batch(Clock::time_point now, uint64_t answered, LatencyHistogram& histogram) {
        const int64_t answered_at = nanoseconds(now);
        if (!looks_at_each_) {
            looks_at_each_ = true;  // some may have gone on waiting, and another batch come
            const auto took = static_cast<uint64_t>(std::max<int64_t>(answered_at - taken_at_, 0));
            histogram.add(took, answered - answered_before_);
        }
        for (size_t i = 0; i < run_count_; ++i) {
            const int64_t took = answered_at - runs_[i].taken_at;
            histogram.add(took > 0 ? static_cast<uint64_t>(took) : 0, runs_[i].requests);
        }
        run_count_ = 0;
    }

  private:
    /// Of the requests that taken_at_ is the time of. Leaves room for note_answered().
    void keep_run(uint64_t requests) {
        if (run_count_ > 0 &&
            (runs_[run_count_ - 1].taken_at == taken_at_ || run_count_ + 1 == runs_.size())) {
            runs_[run_count_ - 1].requests += requests;
        } else {
            runs_[run_count_++] = {.taken_at = taken_at_, .requests = requests};
        }
    }

    /// Requests that were taken at one time and answered one after the other.
    struct Run {
        int64_t taken_at;
        uint64_t requests;
    };

    [[nodiscard]] static int64_t nanoseconds(Clock::time_point time) {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch())
            .count();
    }

    int64_t taken_at_ = 0;
    bool looks_at_each_ = true;
    uint64_t answered_before_ = 0;  // by the beginning of the batch
    size_t run_count_ = 0;
    std::array<Run, 32> runs_{};
};

}  // namespace outrigger
