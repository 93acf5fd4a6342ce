// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/asio_loop.h"

#include <chrono>
#include <unordered_map>
#include <utility>
#include <vector>

#include <asio.hpp>

#include "vhost-user-backend/base/log.h"

namespace outrigger {
namespace {

/// How soon a descriptor that the reactor refused (out of memory, or it cannot be polled) is
/// taken for readable again.
constexpr auto kRefusedRetry = std::chrono::milliseconds(5);

class AsioLoop final : public EventLoop {
  public:
    explicit AsioLoop(Notifier wakeup)
        : EventLoop(std::move(wakeup)), work_(asio::make_work_guard(context_)) {
        (void)watch_readable(wakeup_fd(), [this] { on_wakeup(); });
    }

    ~AsioLoop() override;

    [[nodiscard]] WatchId watch_readable(int fd, Task on_readable) override;
    void unwatch(WatchId watch) override;

    [[nodiscard]] const char* name() const override { return "asio"; }

  private:
    struct Watch {
        Watch(asio::io_context& context, int borrowed_fd, Task callback)
            : descriptor(context), fd(borrowed_fd), on_readable(std::move(callback)) {}

        asio::posix::stream_descriptor descriptor;
        int fd;
        Task on_readable;  // empty while it runs
    };

    bool turn(Clock::time_point until) override;
    void arm_watches();
    void dispatch(WatchId id);

    asio::io_context context_{1};
    asio::executor_work_guard<asio::io_context::executor_type> work_;
    std::unordered_map<WatchId, std::unique_ptr<Watch>> watches_;
    // Waits begin at the start of a turn. Begun inside the handler, a descriptor that stays
    // readable would keep poll() from ever returning.
    std::vector<WatchId> to_arm_;
    std::vector<WatchId> arming_;
    uint64_t last_watch_id_ = 0;
    bool dispatched_ = false;
};

AsioLoop::~AsioLoop() {
    drop_tasks();
    // The descriptors are borrowed: Asio must not close them.
    for (auto& [id, watch] : watches_) {
        if (watch->descriptor.is_open()) {
            (void)watch->descriptor.release();
        }
    }
}

WatchId AsioLoop::watch_readable(int fd, Task on_readable) {
    const WatchId id{++last_watch_id_};
    watches_.emplace(id, std::make_unique<Watch>(context_, fd, std::move(on_readable)));
    to_arm_.push_back(id);
    return id;
}

void AsioLoop::unwatch(WatchId watch) {
    const auto found = watches_.find(watch);
    if (found == watches_.end()) {
        return;
    }
    // The callback's captures may use the loop when they go, so the table must be whole by then.
    const std::unique_ptr<Watch> dropped = std::move(found->second);
    watches_.erase(found);
    if (dropped->descriptor.is_open()) {
        // Cancels the wait; its handler finds no such id.
        (void)dropped->descriptor.release();
    }
}

void AsioLoop::arm_watches() {
    arming_.swap(to_arm_);
    for (const WatchId id : arming_) {
        const auto found = watches_.find(id);
        if (found == watches_.end()) {
            continue;
        }
        Watch& watch = *found->second;
        asio::error_code refused;
        if (!watch.descriptor.is_open()) {
            watch.descriptor.assign(watch.fd, refused);
        }
        if (refused) {
            static LogLimiter limiter;
            limiter.log(LogLevel::kWarning,
                        "cannot wait for descriptor {}: {}; looking at it now and then",
                        watch.fd,
                        refused.message());
            start_timer(Clock::now() + kRefusedRetry, [this, id] { dispatch(id); });
            continue;
        }
        watch.descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                    [this, id](const asio::error_code&) { dispatch(id); });
    }
    arming_.clear();
}

void AsioLoop::dispatch(WatchId id) {
    note_awake();
    const auto found = watches_.find(id);
    if (found == watches_.end()) {
        return;
    }
    dispatched_ = true;
    // The callback may unwatch itself, so it runs from here and goes back only if still wanted.
    Task callback = std::move(found->second->on_readable);
    callback();
    const auto again = watches_.find(id);
    if (again != watches_.end()) {
        again->second->on_readable = std::move(callback);
        to_arm_.push_back(id);
    }
}

bool AsioLoop::turn(Clock::time_point until) {
    arm_watches();
    dispatched_ = false;
    if (until == Clock::time_point::min()) {
        context_.poll();
    } else {
        // A cancelled wait counts as a handler: a short sleep, which is harmless.
        if (until == Clock::time_point::max()) {
            context_.run_one();
        } else {
            context_.run_one_until(until);
        }
        context_.poll();
    }
    return dispatched_;
}

}  // namespace

Result<std::unique_ptr<EventLoop>> create_asio_loop() {
    Notifier wakeup = OUTRIGGER_TRY(Notifier::create());
    try {
        return std::make_unique<AsioLoop>(std::move(wakeup));
    } catch (const std::exception& exception) {
        return failure(
            Error{.message = std::string("cannot create an event loop: ") + exception.what()});
    }
}

}  // namespace outrigger
