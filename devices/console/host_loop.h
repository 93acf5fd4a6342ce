// SPDX-License-Identifier: Apache-2.0
/// The wait of the host thread: descriptors that become readable or writable, and wake-ups of other
/// threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::console {

/// Thread-bound to the host thread, but for wake().
class HostLoop final {
  public:
    using Clock = std::chrono::steady_clock;

    class Watch {
      public:
        /// EPOLLIN and so on.
        virtual void on_events(uint32_t events) = 0;

      protected:
        ~Watch() = default;
    };

    [[nodiscard]] static Result<HostLoop> create();

    /// From now on `watch` is told of `events`, and of errors and hang-ups. False: `fd` cannot be
    /// waited for (a regular file) and is always ready.
    [[nodiscard]] bool add(int fd, uint32_t events, Watch& watch);
    void change(int fd, uint32_t events, Watch& watch);
    /// An event that was found before may still be told in this round.
    void remove(int fd);

    /// Waits until something happens or `until` (nullopt: for ever), and tells the watches.
    void run_once(std::optional<Clock::time_point> until);

    /// Ends the wait. Any thread.
    void wake();

    /// The descriptor by which signal handlers wake it: 8 bytes that are not 0.
    [[nodiscard]] int wake_fd() const { return wakeup_.get(); }

  private:
    HostLoop(UniqueFd epoll, UniqueFd wakeup)
        : epoll_(std::move(epoll)), wakeup_(std::move(wakeup)) {}

    UniqueFd epoll_;
    UniqueFd wakeup_;
};

}  // namespace outrigger::console
