// SPDX-License-Identifier: Apache-2.0
/// A thread that serves queues: it runs an event loop, polls its sources adaptively, and sleeps
/// only after every source has armed its notifications.
#pragma once

#include <chrono>
#include <cstdint>
#include <latch>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/tick_clock.h"
#include "vhost-user-backend/io/adaptive_polling.h"
#include "vhost-user-backend/io/busy_time.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/poll_allowance.h"

namespace outrigger {

/// Something a worker serves: a running queue. All members are called on the worker's thread.
class WorkSource {
  public:
    /// Does what can be done without waiting, publishes results, and says whether it did anything.
    [[nodiscard]] virtual bool poll() = 0;

    /// Arms the notification that ends a sleep. False: work appeared meanwhile, do not sleep.
    [[nodiscard]] virtual bool prepare_sleep() = 0;

  protected:
    ~WorkSource() = default;
};

struct WorkerOptions {
    std::string thread_name = "worker";  ///< at most 15 characters are shown by the system
    LoopKind loop = LoopKind::kAuto;     ///< how the thread waits
    /// Restricts the loop's io_uring, see create_event_loop(); nullopt: anything goes.
    std::optional<UringOperations> uring_operations = std::nullopt;
    std::chrono::microseconds poll_max{0};       ///< longest look for work before a sleep; 0: none
    uint32_t poll_cpu_percent = 100;             ///< share of its time that looks may take
    std::optional<unsigned> cpu = std::nullopt;  ///< pin the thread there
};

struct WorkerCounters {
    Counter turns;  ///< rounds of its loop; they stand still while it sleeps
    Counter sleeps;
    Counter polls_hit;            ///< a spin found work
    Counter polls_idle;           ///< a spin ended without work
    Counter polling_nanoseconds;  ///< of all spins, until the look that found work
};

class Worker final {
  public:
    /// Starts the thread and returns when its loop runs, or with the reason why it cannot.
    [[nodiscard]] static Result<std::unique_ptr<Worker>> start(const WorkerOptions& options);

    /// A worker without a thread of its own: the calling thread is the worker's, and turns it by
    /// hand. For programs that decide themselves what runs when, such as fuzz targets.
    [[nodiscard]] static Result<std::unique_ptr<Worker>> create_threadless(LoopKind loop);

    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    /// Stops and joins. All sources must have been removed.
    ~Worker();

    /// Runs `task` on the worker's thread. Any thread.
    void post(EventLoop::Task task) { loop_->post(std::move(task)); }

    // The rest is thread-bound to the worker.

    [[nodiscard]] EventLoop& loop() { return *loop_; }

    /// From a task or a callback, also from within a source's own poll().
    void add_source(WorkSource& source);
    void remove_source(WorkSource& source);

    /// Of a threadless worker: does what can be done without waiting; when that is nothing, arms
    /// the notifications, as before a sleep. True: something ran or came up meanwhile, so that
    /// another turn is due. Not from within a callback.
    [[nodiscard]] bool turn();

    /// For measuring: the time, which is recent then.
    EventLoop::Clock::time_point look_at_time() {
        note_time(tick_clock_.now());
        return recent_time_;
    }

    /// For measuring: a time that is at most a turn of the loop ago. Mostly known without a look at
    /// the clock.
    [[nodiscard]] EventLoop::Clock::time_point recent_time() {
        if (recent_time_age_ > 1) {
            return look_at_time();
        }
        return recent_time_;
    }

    /// Any thread.
    [[nodiscard]] const WorkerCounters& counters() const { return counters_; }

    /// How long the thread has served its sources and callbacks, without looks for work. Any
    /// thread.
    [[nodiscard]] const BusyTime& busy_time() const { return busy_time_; }

  private:
    explicit Worker(const WorkerOptions& options);

    /// Whoever has looked at the clock says so.
    void note_time(EventLoop::Clock::time_point now) {
        recent_time_ = now;
        recent_time_age_ = 0;
    }

    [[nodiscard]] Result<void> set_up_thread();
    void stop_thread();
    void serve();
    [[nodiscard]] bool poll_sources();
    [[nodiscard]] bool look_for_work(EventLoop::Clock::time_point since);
    void note_looked(EventLoop::Clock::duration time);
    [[nodiscard]] bool sources_ready_to_sleep();

    const WorkerOptions options_;
    AdaptivePolling polling_;
    PollAllowance allowance_;
    WorkerCounters counters_;
    BusyTime busy_time_;
    std::unique_ptr<EventLoop> loop_;   // made and destroyed by the worker's thread
    std::vector<WorkSource*> sources_;  // null: removed, swept after the round
    TickClock tick_clock_;
    EventLoop::Clock::time_point recent_time_{};
    uint32_t recent_time_age_ = 2;  // in rounds of poll_sources()
    bool stopping_ = false;         // set by a task, so thread-bound
    std::latch stop_posted_{1};
    std::thread thread_;
};

}  // namespace outrigger
