// SPDX-License-Identifier: Apache-2.0
/// One call that a port has made later, on its loop: at most one at a time.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "vhost-user-backend/io/event_loop.h"

namespace outrigger::net {

/// Thread-bound to the loop's thread while attached. cancel() comes before the loop or the port
/// goes.
class LaterCall final {
  public:
    LaterCall() = default;
    LaterCall(const LaterCall&) = delete;
    LaterCall& operator=(const LaterCall&) = delete;
    ~LaterCall() = default;

    [[nodiscard]] bool is_pending() const { return timer_.has_value(); }

    /// Not from within this call, but as soon as others had their turn.
    void call_soon(EventLoop& loop, std::move_only_function<void()> call) {
        call_at(loop, EventLoop::Clock::now(), std::move(call));
    }

    /// Nothing, when a call is pending.
    void call_at(EventLoop& loop,
                 EventLoop::Clock::time_point when,
                 std::move_only_function<void()> call) {
        if (timer_) {
            return;
        }
        loop_ = &loop;
        timer_ = loop.start_timer(when, [this, call = std::move(call)]() mutable {
            timer_.reset();
            call();
        });
    }

    void cancel() {
        if (timer_) {
            loop_->cancel_timer(*std::exchange(timer_, std::nullopt));
        }
    }

  private:
    EventLoop* loop_ = nullptr;
    std::optional<TimerId> timer_;
};

}  // namespace outrigger::net
