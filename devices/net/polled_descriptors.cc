// SPDX-License-Identifier: Apache-2.0
#include "devices/net/polled_descriptors.h"

#include <array>
#include <cerrno>

#include <sys/epoll.h>

namespace outrigger::net {
namespace {

/// Descriptors that one look takes up; others stay ready.
constexpr int kEventsMax = 256;

}  // namespace

PolledDescriptors::PolledDescriptors() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

void PolledDescriptors::begin_round() {
    for (auto& [fd, watched] : watched_) {
        watched.wanted = 0;
    }
    asked_.clear();
}

int PolledDescriptors::add(int fd, uint32_t events) {
    if (events != 0) {
        watched_[fd].wanted |= events;
    }
    asked_.push_back(fd);
    return static_cast<int>(asked_.size()) - 1;
}

/// As epoll_ctl().
int PolledDescriptors::tell(int fd, const Watched& watched) const {
    epoll_event event{};
    event.events = watched.wanted;
    event.data.fd = fd;
    const int change = watched.told == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    const int done = ::epoll_ctl(epoll_.get(), change, fd, &event);
    if (done == 0 || (errno != ENOENT && errno != EEXIST)) {
        return done;
    }
    // It was closed and opened again without a word.
    const int other = errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    return ::epoll_ctl(epoll_.get(), other, fd, &event);
}

PolledDescriptors::Told PolledDescriptors::end_round() {
    Told told;
    for (auto each = watched_.begin(); each != watched_.end();) {
        auto& [fd, watched] = *each;
        if (watched.wanted == 0) {
            ++told.system_calls;
            (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
            each = watched_.erase(each);
            continue;
        }
        if (watched.wanted != watched.told) {
            ++told.system_calls;
            if (tell(fd, watched) == 0) {
                watched.told = watched.wanted;
            } else {
                told.os_error = errno;
            }
        }
        ++each;
    }
    return told;
}

void PolledDescriptors::forget(int fd) {
    if (watched_.erase(fd) > 0) {
        (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    }
    ready_.erase(fd);
}

int PolledDescriptors::find_ready() {
    std::array<epoll_event, kEventsMax> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, 0);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<size_t>(i)];
        ready_[event.data.fd] = event.events;
    }
    return count;
}

uint32_t PolledDescriptors::ready(int index) const {
    if (index < 0 || static_cast<size_t>(index) >= asked_.size()) {
        return 0;
    }
    const auto found = ready_.find(asked_[static_cast<size_t>(index)]);
    return found != ready_.end() ? found->second : 0;
}

}  // namespace outrigger::net
