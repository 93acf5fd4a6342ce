// SPDX-License-Identifier: Apache-2.0
/// Watches one descriptor of the host for input and for room, on a worker's event loop. The loop
/// knows readable descriptors only, so this is an epoll instance with one descriptor in it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger::net {

/// Thread-bound to the loop's thread while attached.
class HostWatch final {
  public:
    /// What a callback is told.
    struct Ready {
        bool readable = false;  ///< or an error, or the end
        bool writable = false;
    };

    [[nodiscard]] static Result<HostWatch> create();

    /// Calls `on_ready` for what is awaited; awaiting ends with each call.
    void attach(EventLoop& loop, std::move_only_function<void(Ready)> on_ready);
    void detach();

    /// The descriptor to watch (borrowed), or -1. Nothing is awaited of a new one.
    void set_fd(int fd);

    void await_readable() { await(true, writable_); }

    void await_writable() { await(readable_, true); }

  private:
    explicit HostWatch(UniqueFd epoll) : epoll_(std::move(epoll)) {}

    void await(bool readable, bool writable);
    void update();
    void on_event();

    UniqueFd epoll_;
    EventLoop* loop_ = nullptr;
    std::optional<WatchId> watch_;
    std::move_only_function<void(Ready)> on_ready_;
    int fd_ = -1;
    bool readable_ = false;  // is awaited
    bool writable_ = false;
    uint32_t watched_ = 0;  // events that the kernel knows of; none: the descriptor is not in
    std::optional<TimerId> retry_;
};

}  // namespace outrigger::net
