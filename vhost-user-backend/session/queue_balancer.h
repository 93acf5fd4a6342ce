// SPDX-License-Identifier: Apache-2.0
/// Which queue should go to another worker. It looks at how busy each worker was and at what each
/// queue did, and moves one queue at a time, from the busiest worker to the idlest, where that
/// makes the busiest clearly less busy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace outrigger {

/// A queue that runs.
struct QueueLoad {
    size_t queue = 0;
    size_t worker = 0;  ///< where it is
    double work = 0;    ///< that it did, in any unit that is the same for all queues
};

struct QueueMove {
    size_t queue = 0;
    size_t to = 0;  ///< worker

    friend bool operator==(const QueueMove&, const QueueMove&) = default;
};

/// The move that makes the busiest worker least busy; nullopt when none does so clearly. `busy` has
/// the share of its time, 0 to 1, that each worker was busy. That of a worker is shared among its
/// queues by what they did. A queue for which `rests` is true is not moved.
[[nodiscard]] std::optional<QueueMove> plan_queue_move(std::span<const double> busy,
                                                       std::span<const QueueLoad> queues,
                                                       const std::vector<bool>& rests);

/// plan_queue_move() over time: samples are smoothed, a move must be worth it several times in a
/// row, and what it brought is looked at before the next. Pure: no clock, no thread.
class QueueBalancer final {
  public:
    QueueBalancer(size_t worker_count, size_t queue_count);

    /// Since the sample before, in samples of equal length. A move that it returns has begun:
    /// on_moved() is to follow, and none other comes before.
    [[nodiscard]] std::optional<QueueMove> on_sample(std::span<const double> busy,
                                                     std::span<const QueueLoad> queues);

    /// The move has ended, or could not be made.
    void on_moved(bool moved);

    /// Was no worker busy enough lately to be worth another sample?
    [[nodiscard]] bool is_idle() const { return idle_; }

    /// The samples were interrupted: the next is the first. Queues rest on.
    void forget_samples();

  private:
    void smooth(std::span<const double> busy, std::span<const QueueLoad> queues);
    void assume(const QueueMove& move, std::span<const QueueLoad> queues);

    std::vector<double> busy_;    // of each worker, smoothed
    std::vector<double> work_;    // of each queue, smoothed
    std::vector<uint32_t> rest_;  // of each queue: samples in which it is not to be moved
    bool first_ = true;
    bool idle_ = true;
    uint32_t rounds_planned_ = 0;  // in a row
    uint32_t settling_ = 0;        // samples before the next move
    std::optional<QueueMove> moving_;
};

}  // namespace outrigger
