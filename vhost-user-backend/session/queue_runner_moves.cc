// SPDX-License-Identifier: Apache-2.0
// How a ring that runs comes from one worker to another. What the control thread wants of it in
// between waits until it is there.
#include <chrono>
#include <utility>

#include "vhost-user-backend/session/queue_runner.h"

namespace outrigger {
namespace {

/// How long a ring begins no requests for the sake of a move: a pause that a guest hardly sees.
/// Devices that take longer to answer than that keep no processor busy.
constexpr auto kQuiesceMax = std::chrono::milliseconds(20);

/// Copying this much costs a processor about as much as a request that has nothing to copy.
constexpr uint64_t kBytesLikeARequest = 16384;

/// A ring that is seldom at work should not wake the control thread often.
constexpr uint32_t kRoundsBetweenLooks = 64;

}  // namespace

void QueueRunner::post(EventLoop::Task task) {
    if (waiting_tasks_) {
        waiting_tasks_->push_back(std::move(task));
    } else {
        home_->post(std::move(task));
    }
}

void QueueRunner::quiesce(std::move_only_function<void(bool)> quiet) {
    if (stopping_ || !lent_ || queue_->broken()) {
        quiet(false);
        return;
    }
    motion_ = Motion::kQuiescing;
    quiet_ = std::move(quiet);
    quiesce_timer_ = worker_->loop().start_timer(EventLoop::Clock::now() + kQuiesceMax, [this] {
        quiesce_timer_.reset();
        end_quiesce(false);
    });
    check_quiet();
}

void QueueRunner::check_quiet() {
    if (motion_ == Motion::kQuiescing && queue_->in_flight() == 0) [[unlikely]] {
        end_quiesce(true);
    }
}

void QueueRunner::end_quiesce(bool quiet) {
    motion_ = quiet ? Motion::kQuiet : Motion::kNone;
    if (quiesce_timer_) {
        worker_->loop().cancel_timer(*std::exchange(quiesce_timer_, std::nullopt));
    }
    std::exchange(quiet_, nullptr)(quiet);
}

void QueueRunner::leave(Done left) {
    OUTRIGGER_ASSERT(!waiting_tasks_);
    // The last task here. What comes from now on must neither overtake the runner nor find it gone.
    post([this, left = std::move(left)]() mutable {
        OUTRIGGER_ASSERT(motion_ == Motion::kQuiet && !stopping_);
        left_ = std::move(left);
        lent_ = false;
        environment_.device.stop_queue(environment_.index, [this] {
            // Not from here, as in stop().
            worker_->post([this] {
                leave_worker();
                std::exchange(left_, nullptr)();
            });
        });
    });
    waiting_tasks_.emplace();
}

/// Nothing on this worker knows of the runner any more.
void QueueRunner::leave_worker() {
    OUTRIGGER_ASSERT(queue_->in_flight() == 0);
    publish();
    check_broken();
    check_memory_released();
    unwatch_kick();
    stop_looking();
    worker_->remove_source(*this);
}

void QueueRunner::join(Worker& worker, bool is_last, std::move_only_function<void(bool)> joined) {
    home_ = &worker;
    worker.post([this, &worker, is_last, joined = std::move(joined)]() mutable {
        worker_ = &worker;
        motion_ = Motion::kNone;
        // The worker looks at the ring at once: one before may have taken a kick.
        const bool lent = join_worker().has_value();
        if (!lent && is_last) {
            queue_->break_ring(RingError::kDevice);
            worker_->add_source(*this);  // for the report
        }
        joined(lent);
    });
}

void QueueRunner::go_on() {
    auto tasks = *std::exchange(waiting_tasks_, std::nullopt);
    for (EventLoop::Task& task : tasks) {
        home_->post(std::move(task));
    }
}

uint64_t QueueRunner::work_done() const {
    const VirtqueueCounters& counters = queue_->counters();
    return counters.chains_completed.value() +
           counters.bytes_completed.value() / kBytesLikeARequest - work_before_;
}

void QueueRunner::count_round() {
    std::atomic<bool>* const unwatched = environment_.load_unwatched;
    // Relaxed: a hint that orders nothing.
    if (unwatched != nullptr && ++rounds_ % kRoundsBetweenLooks == 0 &&
        unwatched->load(std::memory_order_relaxed) &&
        unwatched->exchange(false, std::memory_order_relaxed)) [[unlikely]] {
        events_.on_unwatched_load();
    }
}

}  // namespace outrigger
