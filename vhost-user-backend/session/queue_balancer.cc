// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/queue_balancer.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger {
namespace {

/// A worker that has this much time left is not what requests wait for.
constexpr double kRelieveFrom = 0.4;

/// The least by which the busiest worker must get less busy: of its time, and of what it was.
constexpr double kGainMin = 0.1;
constexpr double kGainShareMin = 0.2;

/// No worker is busier: the samples may end.
constexpr double kIdleBelow = 0.1;

/// How much of what was known a new sample replaces: three samples make two thirds.
constexpr double kNewShare = 0.3;

/// In samples.
constexpr uint32_t kRoundsBeforeMove = 3;
constexpr uint32_t kSettle = 5;
constexpr uint32_t kRestAfterMove = 20;
constexpr uint32_t kRestAfterFailure = 100;

}  // namespace

std::optional<QueueMove> plan_queue_move(std::span<const double> busy,
                                         std::span<const QueueLoad> queues,
                                         const std::vector<bool>& rests) {
    const auto busiest = static_cast<size_t>(std::ranges::max_element(busy) - busy.begin());
    const auto idlest = static_cast<size_t>(std::ranges::min_element(busy) - busy.begin());
    const double before = busy[busiest];
    if (before < kRelieveFrom) {
        return std::nullopt;
    }
    double work = 0;
    for (const QueueLoad& each : queues) {
        work += each.worker == busiest ? each.work : 0;
    }
    std::optional<QueueMove> best;
    double best_after = before - std::max(kGainMin, before * kGainShareMin);
    for (const QueueLoad& each : queues) {
        if (each.worker != busiest || each.work <= 0 || rests[each.queue]) {
            continue;
        }
        const double share = before * each.work / work;
        const double after = std::max(before - share, busy[idlest] + share);
        if (after <= best_after) {
            best = QueueMove{.queue = each.queue, .to = idlest};
            best_after = after;
        }
    }
    return best;
}

QueueBalancer::QueueBalancer(size_t worker_count, size_t queue_count)
    : busy_(worker_count), work_(queue_count), rest_(queue_count) {
    OUTRIGGER_ASSERT(worker_count > 0);
}

void QueueBalancer::smooth(std::span<const double> busy, std::span<const QueueLoad> queues) {
    const double share = std::exchange(first_, false) ? 1 : kNewShare;
    const auto take = [share](double& known, double sample) { known += (sample - known) * share; };
    for (size_t i = 0; i < busy_.size(); ++i) {
        take(busy_[i], std::clamp(busy[i], 0.0, 1.0));
    }
    std::vector<double> work(work_.size());
    for (const QueueLoad& each : queues) {
        work[each.queue] = each.work;
    }
    for (size_t i = 0; i < work_.size(); ++i) {
        take(work_[i], work[i]);
    }
}

std::optional<QueueMove> QueueBalancer::on_sample(std::span<const double> busy,
                                                  std::span<const QueueLoad> queues) {
    OUTRIGGER_ASSERT(busy.size() == busy_.size());
    smooth(busy, queues);
    std::vector<bool> rests(rest_.size());
    for (size_t i = 0; i < rest_.size(); ++i) {
        rest_[i] -= std::min(rest_[i], 1U);
        rests[i] = rest_[i] > 0;
    }
    idle_ = !moving_ && std::ranges::all_of(busy, [](double each) { return each < kIdleBelow; });
    if (moving_ || settling_ > 0) {
        settling_ -= std::min(settling_, 1U);
        rounds_planned_ = 0;
        return std::nullopt;
    }
    std::vector<QueueLoad> known(queues.begin(), queues.end());
    for (QueueLoad& each : known) {
        each.work = work_[each.queue];
    }
    const auto planned = plan_queue_move(busy_, known, rests);
    // Of two queues that do about the same, now one is the better and now the other.
    rounds_planned_ = planned ? rounds_planned_ + 1 : 0;
    if (rounds_planned_ < kRoundsBeforeMove) {
        return std::nullopt;
    }
    assume(*planned, known);
    rounds_planned_ = 0;
    moving_ = planned;
    return planned;
}

/// What is known is what was, and the samples to come are of what will be.
void QueueBalancer::assume(const QueueMove& move, std::span<const QueueLoad> queues) {
    const auto moved =
        std::ranges::find_if(queues, [&](const auto& each) { return each.queue == move.queue; });
    double work = 0;
    for (const QueueLoad& each : queues) {
        work += each.worker == moved->worker ? each.work : 0;
    }
    const double share = busy_[moved->worker] * moved->work / work;
    busy_[moved->worker] -= share;
    busy_[move.to] += share;
}

void QueueBalancer::on_moved(bool moved) {
    OUTRIGGER_ASSERT(moving_.has_value());
    rest_[std::exchange(moving_, std::nullopt)->queue] = moved ? kRestAfterMove : kRestAfterFailure;
    settling_ = kSettle;
    first_ = first_ || !moved;  // what was assumed is not so
}

void QueueBalancer::forget_samples() {
    first_ = true;
    idle_ = true;
    rounds_planned_ = 0;
}

}  // namespace outrigger
