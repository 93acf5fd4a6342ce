// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/queue_load.h"

#include <algorithm>
#include <array>

#include <poll.h>

#include <fmt/core.h>

namespace outrigger::bench {
namespace {

/// Looks at an empty ring between two looks at the clock.
constexpr uint32_t kLooksPerClock = 32;
/// Without an answer for so long: see whether the back end is still there.
constexpr std::chrono::milliseconds kQuiet{5};

std::unexpected<Error> lose(std::string message) {
    return failure(Error{.message = std::move(message)});
}

}  // namespace

void LoadCounts::merge(const LoadCounts& other) {
    completed += other.completed;
    failed += other.failed;
    kicks += other.kicks;
    calls += other.calls;
    seconds += other.seconds;
    latency.merge(other.latency);
}

QueueLoad::QueueLoad(driver::DriverQueue& queue,
                     Workload& workload,
                     const LoadOptions& options,
                     InstantDevice* device)
    : queue_(queue),
      workload_(workload),
      options_(options),
      device_(device),
      begun_(options.depth) {}

Result<void> QueueLoad::run(Phase phase, driver::Deadline end) {
    if (!OUTRIGGER_TRY(workload_.enter(phase))) {
        return {};
    }
    if (options_.spin) {
        queue_.suppress_calls();
    }
    const driver::Deadline begin = driver::Clock::now();
    now_ = last_answer_ = begin;
    end_ = phase == Phase::kLoad ? end : driver::Deadline::max();
    open_ = true;
    fill();
    while (in_flight_ > 0) {
        if (take_completions()) {
            continue;
        }
        if (wrong_) {
            return lose(workload_.complaint());
        }
        OUTRIGGER_TRY(idle());
    }
    if (wrong_) {
        return lose(workload_.complaint());
    }
    counts_.seconds += std::chrono::duration<double>(now_ - begin).count();
    return {};
}

void QueueLoad::fill() {
    for (uint32_t slot = 0; slot < options_.depth && submit(slot); ++slot) {
        begun_[slot] = now_;
        ++in_flight_;
    }
    counts_.kicks += queue_.publish_and_kick() ? 1U : 0U;
}

bool QueueLoad::submit(uint32_t slot) {
    const auto segments = workload_.begin(slot);
    if (segments.empty()) {
        return false;
    }
    // The ring was made with room for all slots.
    OUTRIGGER_ASSERT(queue_.try_add(segments, slot, options_.layout));
    return true;
}

/// One look at the clock and one store of the ring's index for all that is there, which is what was
/// published at most: a device that answers what it was not yet given does not keep us from the
/// clock. False when nothing is there, or a wrong answer.
bool QueueLoad::take_completions() {
    auto completion = queue_.poll_used();
    if (!completion) {
        return false;
    }
    now_ = last_answer_ = driver::Clock::now();
    open_ = open_ && now_ < end_;
    bool added = false;
    for (uint32_t taken = 1; completion; ++taken) {
        added = take_completion(*completion) || added;
        completion = taken < options_.depth ? queue_.poll_used() : std::nullopt;
    }
    if (added) {
        counts_.kicks += queue_.publish_and_kick() ? 1U : 0U;
    }
    empty_looks_ = 0;
    return !wrong_;
}

/// True when a chain was added for it.
bool QueueLoad::take_completion(const driver::Completion& completion) {
    const auto slot = static_cast<uint32_t>(completion.token);
    const Verdict verdict = workload_.finish(slot, completion);
    if (verdict == Verdict::kMore) {
        OUTRIGGER_ASSERT(submit(slot));
        return true;
    }
    const auto took = std::chrono::nanoseconds(now_ - begun_[slot]).count();
    counts_.latency.record(static_cast<uint64_t>(std::max<int64_t>(took, 0)));
    ++counts_.completed;
    --in_flight_;
    if (verdict != Verdict::kGood) [[unlikely]] {
        ++counts_.failed;
        wrong_ = wrong_ || verdict == Verdict::kWrong;
        open_ = open_ && !wrong_;
    }
    if (!open_ || !submit(slot)) {
        return false;
    }
    begun_[slot] = now_;
    ++in_flight_;
    return true;
}

Result<void> QueueLoad::idle() {
    if (device_ != nullptr) {
        device_->serve();
        return {};
    }
    if (!options_.spin) {
        sleep();
    } else if (++empty_looks_ % kLooksPerClock != 0) {
        return {};
    } else {
        now_ = driver::Clock::now();
    }
    return now_ - last_answer_ < kQuiet ? Result<void>() : look_around();
}

void QueueLoad::sleep() {
    if (queue_.enable_calls()) {
        // Something is there, or the ring lies: then the time passes all the same. A call that
        // stays armed would end the next sleep for what was found without it.
        queue_.suppress_calls();
        now_ = driver::Clock::now();
        return;
    }
    std::array<pollfd, 3> waited{{
        {.fd = queue_.call_read_fd(), .events = POLLIN, .revents = 0},
        {.fd = queue_.error_read_fd(), .events = POLLIN, .revents = 0},
        {.fd = options_.socket, .events = POLLIN | POLLRDHUP, .revents = 0},
    }};
    const driver::Deadline give_up = last_answer_ + options_.patience;
    (void)::poll(waited.data(), waited.size(), driver::milliseconds_until(give_up));
    if (waited[0].revents != 0) {
        counts_.calls += queue_.take_calls();
    }
    // As an interrupt handler does: no more calls until it is asked for them.
    queue_.suppress_calls();
    now_ = driver::Clock::now();
}

/// The back end is quiet: is it still there?
Result<void> QueueLoad::look_around() {
    if (queue_.fault() != driver::DeviceFault::kNone) {
        return lose(fmt::format("the used ring is wrong: {}", driver::describe(queue_.fault())));
    }
    std::array<pollfd, 2> watched{{
        {.fd = queue_.error_read_fd(), .events = POLLIN, .revents = 0},
        {.fd = options_.socket, .events = POLLRDHUP, .revents = 0},
    }};
    (void)::poll(watched.data(), watched.size(), 0);
    if (watched[1].revents != 0) {
        return lose(fmt::format("the back end hung up with {} requests in flight", in_flight_));
    }
    if (watched[0].revents != 0) {
        return lose("the back end says that the ring is in error");
    }
    if (now_ - last_answer_ >= options_.patience) {
        return lose(fmt::format("no answer within {} ms, with {} requests in flight",
                                options_.patience.count(),
                                in_flight_));
    }
    return {};
}

LoadCounts QueueLoad::take_counts() {
    counts_.calls += queue_.take_calls();
    return std::exchange(counts_, LoadCounts{});
}

}  // namespace outrigger::bench
