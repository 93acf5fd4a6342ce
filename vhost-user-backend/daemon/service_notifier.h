// SPDX-License-Identifier: Apache-2.0
/// Tells the service manager how the daemon is: sd_notify(3) with READY=1, STATUS=, STOPPING=1, and
/// WATCHDOG=1 for as long as every thread takes its tasks.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

namespace outrigger {

/// Thread-bound: control thread. Never waits: what the service manager has no room for is sent a
/// little later, and only the newest of it.
class ServiceNotifier final {
  public:
    /// $NOTIFY_SOCKET and $WATCHDOG_USEC, which may be our parent's, if that is our keeper. Null
    /// when nobody wants to know. Outside of the sandbox.
    [[nodiscard]] static std::unique_ptr<ServiceNotifier> from_environment(bool parent_is_keeper);

    ServiceNotifier(const ServiceNotifier&) = delete;
    ServiceNotifier& operator=(const ServiceNotifier&) = delete;
    ~ServiceNotifier();

    /// From now on something is said. `asked`: the workers that must take a task between two signs
    /// of life; one that may rightly wait for long is not among them. `loop` outlives the workers.
    void begin(EventLoop& loop, std::vector<Worker*> asked);

    /// The daemon serves; before it, nothing but signs of life.
    void ready();
    /// A line for people.
    void show_status(std::string status);
    /// The end has begun.
    void stopping();

  private:
    ServiceNotifier(UniqueFd socket, std::optional<EventLoop::Clock::duration> watchdog)
        : socket_(std::move(socket)), watchdog_(watchdog) {}

    [[nodiscard]] bool send(std::string_view text) const;
    void tell();
    void tell_later();
    void keep_alive();

    UniqueFd socket_;
    std::optional<EventLoop::Clock::duration> watchdog_;  // between two signs of life
    EventLoop* loop_ = nullptr;
    std::vector<Worker*> asked_;
    /// By workers; theirs, too, because the last answer may come when we are gone.
    std::shared_ptr<size_t> unanswered_ = std::make_shared<size_t>(0);
    std::optional<TimerId> tell_timer_;
    std::optional<TimerId> watchdog_timer_;
    std::string status_;
    bool is_ready_ = false;
    bool is_stopping_ = false;
};

}  // namespace outrigger
