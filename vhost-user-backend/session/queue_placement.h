// SPDX-License-Identifier: Apache-2.0
/// Which worker each ring of a session is on, and the sampling that lets the work decide.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/session/queue_balancer.h"

namespace outrigger {

/// Thread-bound: control thread. While no worker has work to speak of there is no timer: the first
/// ring at work ends that (load_unwatched()).
class QueuePlacement final {
  public:
    class Handler {
      public:
        /// What ring `index` has done so far; nullopt when it is not there to be moved.
        [[nodiscard]] virtual std::optional<uint64_t> ring_work(size_t index) const = 0;

        /// Moves ring `index`, which is there to be moved; on_moved() is to follow.
        virtual void move_ring(size_t index, size_t to) = 0;

      protected:
        ~Handler() = default;
    };

    /// `workers` has at least one. The first `priority_rings` get a worker each for themselves,
    /// where one is left for the others. Of these a worker gets every so many-th at first. Without
    /// `balances` they stay there; a ring that has moved starts again where it was.
    QueuePlacement(EventLoop& loop,
                   std::span<Worker* const> workers,
                   size_t ring_count,
                   size_t priority_rings,
                   bool balances,
                   Handler& handler);
    QueuePlacement(const QueuePlacement&) = delete;
    QueuePlacement& operator=(const QueuePlacement&) = delete;
    ~QueuePlacement();

    /// Where a ring is, or, when it does not run, where it starts.
    [[nodiscard]] size_t worker_of(size_t ring) const { return worker_of_[ring]; }

    /// Null: nobody watches. Otherwise a ring at work that finds it set resets it, and has
    /// on_unwatched_load() called. Any thread.
    [[nodiscard]] std::atomic<bool>* load_unwatched() {
        return balances_ ? &load_unwatched_ : nullptr;
    }

    void on_unwatched_load();

    /// The ring is on `worker` now.
    void set_worker(size_t ring, size_t worker) { worker_of_[ring] = worker; }

    /// What move_ring() asked for has been done, or could not be.
    void on_moved(bool moved) { balancer_.on_moved(moved); }

    /// No ring is to be moved any more.
    void stop();

  private:
    struct RingWork {
        uint64_t done = 0;
        bool known = false;  // at the last sample
    };

    void take_sample();
    void on_timer();
    void start_timer();

    EventLoop& loop_;
    const std::span<Worker* const> workers_;
    const size_t reserved_;  // rings, and as many workers, that stay together
    const bool balances_;
    Handler& handler_;
    QueueBalancer balancer_;
    std::vector<size_t> worker_of_;
    std::atomic<bool> load_unwatched_ = true;
    std::optional<TimerId> timer_;
    bool stopped_ = false;

    // The last sample and what has been done since; kept for their room.
    EventLoop::Clock::time_point sampled_at_{};
    std::vector<BusyTime::Duration> busy_at_;  // of each worker
    std::vector<RingWork> work_at_;            // of each ring
    std::vector<double> busy_;
    std::vector<QueueLoad> loads_;
};

}  // namespace outrigger
