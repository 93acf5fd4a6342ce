// SPDX-License-Identifier: Apache-2.0
/// One thread's wait: descriptors that become readable, timers, tasks from other threads, and (on
/// io_uring) completions, all in one sleep.
///
/// Two implementations pass the same tests: UringLoop (Linux) and AsioLoop (everywhere).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/result.h"

namespace outrigger {

enum class WatchId : uint64_t {};
enum class TimerId : uint64_t {};

class Uring;

/// Thread-bound to the thread that runs it, except where a member says otherwise.
class EventLoop {
  public:
    using Task = std::move_only_function<void()>;
    using Clock = std::chrono::steady_clock;

    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;
    virtual ~EventLoop();

    /// Runs `task` on the loop's thread, in order of posting. Any thread. Tasks still posted when
    /// the loop is destroyed are dropped.
    void post(Task task);

    /// Calls `on_readable` again and again as long as `fd` is readable or hung up: level-triggered,
    /// so the callback must drain or unwatch. `fd` is borrowed and must stay open until unwatch();
    /// it may be made non-blocking. One watch a descriptor. What cannot be waited for (a regular
    /// file) counts as always readable.
    [[nodiscard]] virtual WatchId watch_readable(int fd, Task on_readable) = 0;

    /// The callback is not called again once this returns. Also from within the callback itself.
    virtual void unwatch(WatchId watch) = 0;

    /// Calls `task` once at or after `deadline`.
    TimerId start_timer(Clock::time_point deadline, Task task);
    /// Unknown or expired ids are ignored.
    void cancel_timer(TimerId timer);

    /// Dispatches what is ready; when nothing is, sleeps until something is or `until` has come.
    /// `until` in the past (time_point::min()) never sleeps; time_point::max() has no bound.
    /// True when anything ran. Not from within a callback.
    bool run_once(Clock::time_point until);

    /// When the wait of the last run_once() that could sleep ended, or when that was called, if it
    /// found something to do without a wait. What it called back ran behind that.
    [[nodiscard]] Clock::time_point woke_at() const { return woke_at_; }

    /// The io_uring of this loop, or null when it has none. Thread-bound.
    [[nodiscard]] virtual Uring* uring() { return nullptr; }

    [[nodiscard]] virtual const char* name() const = 0;

  protected:
    explicit EventLoop(Notifier wakeup);

    /// One turn of the implementation: calls back for what is ready; when nothing is, waits until
    /// something is or `until` has come (time_point::min(): do not wait). True when a callback ran.
    virtual bool turn(Clock::time_point until) = 0;

    /// The wait of a turn has ended. The implementation says so before it calls back.
    void note_awake() {
        if (std::exchange(may_wait_, false)) {
            woke_at_ = Clock::now();
        }
    }

    /// Readable when another thread posted to a sleeping loop. The implementation watches it, and
    /// answers with on_wakeup().
    [[nodiscard]] int wakeup_fd() const { return wakeup_.read_fd(); }

    void on_wakeup() { wakeup_.drain(); }

    /// Drops tasks and timers, whose captures may still use the loop: first in every destructor.
    void drop_tasks();

  private:
    struct Timer {
        Clock::time_point deadline;
        TimerId id;  // grows, so equal deadlines run in order of starting
        Task task;
    };

    static bool later(const Timer& a, const Timer& b);
    bool run_posted();
    bool run_due_timers();

    Notifier wakeup_;

    std::mutex posted_mutex_;
    std::vector<Task> posted_;              // guarded by posted_mutex_
    std::atomic<bool> has_posted_ = false;  // posted_ is not empty
    std::atomic<bool> may_sleep_ = false;   // a post must signal wakeup_

    std::vector<Task> running_;  // the swapped-out posted_, kept for its capacity
    std::vector<Timer> timers_;  // a heap by later()
    uint64_t last_timer_id_ = 0;

    bool may_wait_ = false;  // this turn may, and has not yet said that it is awake
    Clock::time_point woke_at_{};
};

enum class LoopKind : uint8_t {
    kAuto,   ///< io_uring where the kernel allows it, else Asio
    kUring,  ///< io_uring or an error
    kAsio,
};

/// IORING_OP_* opcodes.
using UringOperations = std::vector<uint8_t>;

/// Must be called on the thread that will run the loop (io_uring binds to it). With `operations`,
/// the kernel refuses (-EACCES) every io_uring operation but these and the few that the loop itself
/// submits, for the life of the ring; where it cannot, there is no io_uring. System call filters do
/// not see what a ring submits.
[[nodiscard]] Result<std::unique_ptr<EventLoop>> create_event_loop(
    LoopKind kind, const std::optional<UringOperations>& operations = std::nullopt);

}  // namespace outrigger
