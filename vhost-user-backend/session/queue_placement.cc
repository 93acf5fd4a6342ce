// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/queue_placement.h"

#include <utility>

namespace outrigger {
namespace {

constexpr auto kSampleInterval = std::chrono::milliseconds(100);

}  // namespace

QueuePlacement::QueuePlacement(EventLoop& loop,
                               std::span<Worker* const> workers,
                               size_t ring_count,
                               size_t priority_rings,
                               bool balances,
                               Handler& handler)
    : loop_(loop),
      workers_(workers),
      reserved_(priority_rings < workers.size() && priority_rings < ring_count ? priority_rings
                                                                               : 0),
      balances_(balances && workers.size() - reserved_ > 1 && ring_count - reserved_ > 1),
      handler_(handler),
      balancer_(workers.size() - reserved_, ring_count),
      worker_of_(ring_count),
      busy_at_(workers.size()),
      work_at_(ring_count),
      busy_(workers.size() - reserved_) {
    for (size_t ring = 0; ring < ring_count; ++ring) {
        worker_of_[ring] =
            ring < reserved_ ? ring : reserved_ + (ring - reserved_) % (workers.size() - reserved_);
    }
    loads_.reserve(ring_count);
}

QueuePlacement::~QueuePlacement() {
    stop();
}

void QueuePlacement::stop() {
    stopped_ = true;
    if (timer_) {
        loop_.cancel_timer(*std::exchange(timer_, std::nullopt));
    }
}

void QueuePlacement::on_unwatched_load() {
    if (!stopped_ && !timer_) {
        take_sample();
        start_timer();
    }
}

void QueuePlacement::start_timer() {
    timer_ = loop_.start_timer(EventLoop::Clock::now() + kSampleInterval, [this] {
        timer_.reset();
        on_timer();
    });
}

/// What each worker and each ring did since the sample before, into busy_ and loads_.
void QueuePlacement::take_sample() {
    const auto now = EventLoop::Clock::now();
    const std::chrono::duration<double> elapsed = now - std::exchange(sampled_at_, now);
    for (size_t i = reserved_; i < workers_.size(); ++i) {
        const auto total = workers_[i]->busy_time().until(now);
        const std::chrono::duration<double> busy = total - std::exchange(busy_at_[i], total);
        busy_[i - reserved_] = busy / elapsed;
    }
    loads_.clear();
    for (size_t ring = reserved_; ring < work_at_.size(); ++ring) {
        const auto done = handler_.ring_work(ring);
        const RingWork before =
            std::exchange(work_at_[ring], {.done = done.value_or(0), .known = done.has_value()});
        if (done) {
            // A ring that was started anew counts from 0 again.
            const bool goes_on = before.known && before.done <= *done;
            loads_.push_back({.queue = ring,
                              .worker = worker_of_[ring] - reserved_,
                              .work = goes_on ? static_cast<double>(*done - before.done) : 0});
        }
    }
}

void QueuePlacement::on_timer() {
    take_sample();
    const auto move = balancer_.on_sample(busy_, loads_);
    if (move) {
        handler_.move_ring(move->queue, reserved_ + move->to);
    }
    if (!balancer_.is_idle()) {
        start_timer();
        return;
    }
    balancer_.forget_samples();
    // Relaxed: a hint that orders nothing. A ring that does not see it yet sees it the next time.
    load_unwatched_.store(true, std::memory_order_relaxed);
}

}  // namespace outrigger
