// SPDX-License-Identifier: Apache-2.0
/// The one thread on which everything happens that is not a virtual CPU: sessions with back ends,
/// the control socket, signals, timers. Asio does the work, behind this header.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

/// Thread-bound to the thread that calls run(), but for post() and stop().
class EventLoop final {
  public:
    using Clock = std::chrono::steady_clock;
    using Task = std::move_only_function<void()>;

    class TimerState;
    class WatchState;

    /// Destroying or assigning it cancels the timer: its task does not run any more.
    class Timer final {
      public:
        Timer() = default;
        Timer(Timer&& other) noexcept = default;
        Timer& operator=(Timer&& other) noexcept;
        Timer(const Timer&) = delete;
        Timer& operator=(const Timer&) = delete;
        ~Timer();

      private:
        friend class EventLoop;

        explicit Timer(std::shared_ptr<TimerState> state) : state_(std::move(state)) {}

        std::shared_ptr<TimerState> state_;
    };

    /// Destroying or assigning it ends the watch: its tasks do not run any more, and the descriptor
    /// may be closed. One watch a descriptor.
    class Watch final {
      public:
        Watch() = default;
        Watch(Watch&& other) noexcept = default;
        Watch& operator=(Watch&& other) noexcept;
        Watch(const Watch&) = delete;
        Watch& operator=(const Watch&) = delete;
        ~Watch();

        /// Runs `task` once, when the descriptor takes bytes again. One at a time.
        void when_writable(Task task);

      private:
        friend class EventLoop;

        explicit Watch(std::shared_ptr<WatchState> state) : state_(std::move(state)) {}

        std::shared_ptr<WatchState> state_;
    };

    EventLoop();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;
    /// All timers and watches are gone by then.
    ~EventLoop();

    /// Runs tasks until stop(). Tasks that were posted before are not lost.
    void run();
    /// run() returns when the task that runs has ended, or at once the next time. Any thread.
    void stop();

    /// Runs `task` on the loop's thread, never from within this call. Any thread; never waits for
    /// the loop.
    void post(Task task);

    [[nodiscard]] Timer start_timer(Clock::duration delay, Task task);

    /// Runs `on_readable` again and again while `fd` (borrowed) is readable, or its end has come.
    /// Regular files cannot be watched.
    [[nodiscard]] Result<Watch> watch(int fd, Task on_readable);

  private:
    class Reactor;

    std::unique_ptr<Reactor> reactor_;
};

}  // namespace outrigger::vmm
