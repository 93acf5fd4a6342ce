// SPDX-License-Identifier: Apache-2.0
#include "devices/net/host_watch.h"

#include <utility>

#include <sys/epoll.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::net {

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
}

/// A descriptor that is not awaited is not in the instance: it would report its end again and
/// again.
void HostWatch::await(bool readable, bool writable) {
    if (fd_ < 0 || (readable == readable_ && writable == writable_)) {
        return;
    }
    const bool was_in = readable_ || writable_;
    const bool is_in = readable || writable;
    readable_ = readable;
    writable_ = writable;
    epoll_event event{};
    event.events = (readable ? uint32_t{EPOLLIN} : 0) | (writable ? uint32_t{EPOLLOUT} : 0);
    const int change = !is_in ? EPOLL_CTL_DEL : was_in ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    // A descriptor that cannot be watched is none of ours: see who calls set_fd().
    const int done = ::epoll_ctl(epoll_.get(), change, fd_, &event);
    OUTRIGGER_ASSERT(done == 0);
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
