// SPDX-License-Identifier: Apache-2.0
#include "devices/console/host_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace outrigger::console {

Result<HostLoop> HostLoop::create() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    UniqueFd wakeup(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll.valid() || !wakeup.valid()) {
        return failure(error_from_errno("cannot wait for the host's side of a console"));
    }
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;  // ourselves
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wakeup.get(), &event) != 0) {
        return failure(error_from_errno("cannot wait for the host's side of a console"));
    }
    return HostLoop(std::move(epoll), std::move(wakeup));
}

bool HostLoop::add(int fd, uint32_t events, Watch& watch) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = &watch;
    return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void HostLoop::change(int fd, uint32_t events, Watch& watch) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = &watch;
    // Fails only for what add() refused, which nobody waits for.
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void HostLoop::remove(int fd) {
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void HostLoop::run_once(std::optional<Clock::time_point> until) {
    int timeout_ms = -1;
    if (until) {
        const auto now = Clock::now();
        const auto left = *until <= now
                              ? std::chrono::milliseconds(0)
                              : std::chrono::ceil<std::chrono::milliseconds>(*until - now);
        timeout_ms = static_cast<int>(std::min<int64_t>(left.count(), 60'000));
    }
    std::array<epoll_event, 64> events{};
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<size_t>(i)];
        if (event.data.ptr == nullptr) {
            uint64_t wakes = 0;
            (void)!::read(wakeup_.get(), &wakes, sizeof wakes);
            continue;
        }
        static_cast<Watch*>(event.data.ptr)->on_events(event.events);
    }
}

void HostLoop::wake() {
    const uint64_t one = 1;
    (void)!::write(wakeup_.get(), &one, sizeof one);
}

}  // namespace outrigger::console
