// SPDX-License-Identifier: Apache-2.0
/// One thread's wait: descriptors that become readable, timers, tasks from other threads, and (on
/// io_uring) completions, all in one sleep.
///
/// Two implementations pass the same tests: UringLoop (Linux) and AsioLoop (everywhere).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
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
    /// so the callback must drain or unwatch. `fd` is borrowed and must stay open until unwatch().
    [[nodiscard]] virtual WatchId watch_readable(int fd, Task on_readable) = 0;

    /// The callback is not called again once this returns. Also from within the callback itself.
    virtual void unwatch(WatchId watch) = 0;

    /// Calls `task` once at or after `deadline`.
    TimerId start_timer(Clock::time_point deadline, Task task);
    /// Unknown or expired ids are ignored.
    void cancel_timer(TimerId timer);

    /// Dispatches what is ready; when nothing is, sleeps until something is or `until` has come.
    /// `until` in the past (time_point::min()) never sleeps; time_point::max() has no bound.
    /// True when anything ran.
    bool run_once(Clock::time_point until);

    /// The io_uring of this loop, or null when it has none. Thread-bound.
    [[nodiscard]] virtual Uring* uring() { return nullptr; }

    [[nodiscard]] virtual const char* name() const = 0;

  protected:
    EventLoop() = default;
};

enum class LoopKind : uint8_t {
    kAuto,   ///< io_uring where the kernel allows it, else Asio
    kUring,  ///< io_uring or an error
    kAsio,
};

/// Must be called on the thread that will run the loop (io_uring binds to it).
[[nodiscard]] Result<std::unique_ptr<EventLoop>> create_event_loop(LoopKind kind);

}  // namespace outrigger
