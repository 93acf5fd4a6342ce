// SPDX-License-Identifier: Apache-2.0
#include "devices/net/host_watch.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/epoll.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::net {
namespace {

/// Until what the kernel refused is tried again.
constexpr auto kRetry = std::chrono::milliseconds(100);

}  // namespace

Result<HostWatch> HostWatch::create() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll.valid()) {
        return failure(error_from_errno("cannot create an epoll instance"));
    }
    return HostWatch(std::move(epoll));
}

void HostWatch::attach(EventLoop& loop, std::move_only_function<void(Ready)> on_ready) {
    loop_ = &loop;
    on_ready_ = std::move(on_ready);
    watch_ = loop.watch_readable(epoll_.get(), [this] { on_event(); });
}

void HostWatch::detach() {
    if (watch_) {
        loop_->unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (retry_) {
        loop_->cancel_timer(*std::exchange(retry_, std::nullopt));
    }
    loop_ = nullptr;
    await(false, false);
}

void HostWatch::set_fd(int fd) {
    if (fd_ >= 0) {
        // It may be closed already, when the kernel has forgotten it.
        (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
    }
    fd_ = fd;
    readable_ = false;
    writable_ = false;
    watched_ = 0;
}

void HostWatch::await(bool readable, bool writable) {
    if (fd_ < 0) {
        return;
    }
    readable_ = readable;
    writable_ = writable;
    update();
}

/// A descriptor that is not awaited is not in the instance: it would report its end again and
/// again. The kernel may have no memory, or no watches left for the user
/// (fs.epoll.max_user_watches, which others share).
void HostWatch::update() {
    const uint32_t wanted =
        (readable_ ? uint32_t{EPOLLIN} : 0) | (writable_ ? uint32_t{EPOLLOUT} : 0);
    if (fd_ < 0 || wanted == watched_) {
        return;
    }
    epoll_event event{};
    event.events = wanted;
    const int change = wanted == 0 ? EPOLL_CTL_DEL : watched_ != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    // One that is closed has gone from the instance by itself.
    if (::epoll_ctl(epoll_.get(), change, fd_, &event) == 0 || wanted == 0) {
        watched_ = wanted;
        return;
    }
    static LogLimiter limiter;
    limiter.log(
        LogLevel::kWarning, "net: cannot watch a descriptor of the host: {}", std::strerror(errno));
    if (loop_ != nullptr && !retry_) {
        retry_ = loop_->start_timer(EventLoop::Clock::now() + kRetry, [this] {
            retry_.reset();
            update();
        });
    }
}

void HostWatch::on_event() {
    epoll_event event{};
    if (::epoll_wait(epoll_.get(), &event, 1, 0) != 1) {
        return;
    }
    constexpr uint32_t kTrouble = EPOLLERR | EPOLLHUP;
    const Ready ready{.readable = readable_ && (event.events & (EPOLLIN | kTrouble)) != 0,
                      .writable = writable_ && (event.events & (EPOLLOUT | kTrouble)) != 0};
    await(readable_ && !ready.readable, writable_ && !ready.writable);
    on_ready_(ready);
}

}  // namespace outrigger::net
