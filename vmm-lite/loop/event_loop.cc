// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/loop/event_loop.h"

#include <system_error>
#include <utility>

#include <asio.hpp>

namespace outrigger::vmm {

class EventLoop::Reactor final {
  public:
    asio::io_context context{1};
    asio::executor_work_guard<asio::io_context::executor_type> work =
        asio::make_work_guard(context);
};

class EventLoop::TimerState final {
  public:
    TimerState(asio::io_context& context, Task task) : timer(context), task_(std::move(task)) {}

    void run() {
        if (!cancelled_) {
            cancelled_ = true;
            task_();
        }
    }

    void cancel() {
        cancelled_ = true;
        timer.cancel();
    }

    asio::steady_timer timer;

  private:
    Task task_;
    bool cancelled_ = false;
};

class EventLoop::WatchState final : public std::enable_shared_from_this<WatchState> {
  public:
    WatchState(asio::io_context& context, Task on_readable)
        : descriptor_(context), on_readable_(std::move(on_readable)) {}

    [[nodiscard]] std::error_code begin(int fd) {
        std::error_code error;
        descriptor_.assign(fd, error);
        if (!error) {
            wait_readable();
        }
        return error;
    }

    void when_writable(Task task) {
        descriptor_.async_wait(
            asio::posix::stream_descriptor::wait_write,
            [self = shared_from_this(), task = std::move(task)](std::error_code) mutable {
                if (self->active_) {
                    task();
                }
            });
    }

    void end() {
        active_ = false;
        if (descriptor_.is_open()) {
            (void)descriptor_.release();  // the descriptor is borrowed: Asio must not close it
        }
    }

  private:
    void wait_readable() {
        descriptor_.async_wait(asio::posix::stream_descriptor::wait_read,
                               [self = shared_from_this()](std::error_code) {
                                   if (self->active_) {
                                       self->on_readable_();
                                   }
                                   if (self->active_) {
                                       self->wait_readable();
                                   }
                               });
    }

    asio::posix::stream_descriptor descriptor_;
    Task on_readable_;
    bool active_ = true;
};

EventLoop::Timer& EventLoop::Timer::operator=(Timer&& other) noexcept {
    if (this != &other) {
        if (state_ != nullptr) {
            state_->cancel();
        }
        state_ = std::move(other.state_);
    }
    return *this;
}

EventLoop::Timer::~Timer() {
    if (state_ != nullptr) {
        state_->cancel();
    }
}

EventLoop::Watch& EventLoop::Watch::operator=(Watch&& other) noexcept {
    if (this != &other) {
        if (state_ != nullptr) {
            state_->end();
        }
        state_ = std::move(other.state_);
    }
    return *this;
}

EventLoop::Watch::~Watch() {
    if (state_ != nullptr) {
        state_->end();
    }
}

void EventLoop::Watch::when_writable(Task task) {
    OUTRIGGER_ASSERT(state_ != nullptr);
    state_->when_writable(std::move(task));
}

EventLoop::EventLoop() : reactor_(std::make_unique<Reactor>()) {}

EventLoop::~EventLoop() = default;

void EventLoop::run() {
    reactor_->context.run();
    reactor_->context.restart();
}

void EventLoop::stop() {
    reactor_->context.stop();
}

void EventLoop::post(Task task) {
    asio::post(reactor_->context, std::move(task));
}

EventLoop::Timer EventLoop::start_timer(Clock::duration delay, Task task) {
    auto state = std::make_shared<TimerState>(reactor_->context, std::move(task));
    state->timer.expires_after(delay);
    state->timer.async_wait([state](std::error_code) { state->run(); });
    return Timer(std::move(state));
}

Result<EventLoop::Watch> EventLoop::watch(int fd, Task on_readable) {
    auto state = std::make_shared<WatchState>(reactor_->context, std::move(on_readable));
    if (const std::error_code error = state->begin(fd); error) {
        state->end();
        return failure(error_from_code("cannot watch a descriptor", error.value()));
    }
    return Watch(std::move(state));
}

}  // namespace outrigger::vmm
