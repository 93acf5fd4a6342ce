// SPDX-License-Identifier: Apache-2.0
#include "devices/console/host_thread.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <optional>
#include <utility>

#include <signal.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/common_options.h"
#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::console {
namespace {

/// How often a terminal is asked for its size that cannot tell by itself.
constexpr auto kSizeInterval = std::chrono::milliseconds(200);
constexpr size_t kStageBytes = size_t{64} << 10;

// What the handler of SIGHUP uses: how often it came, and who is to look.
std::atomic<uint32_t> hangups = 0;
std::array<std::atomic<int>, kDevicesMax> hangup_fds{};  // 0: nobody; standard input is none
static_assert(std::atomic<int>::is_always_lock_free);

void on_hangup(int) {
    const int saved_errno = errno;
    hangups.fetch_add(1);  // seen by the load in run(), which the write below wakes
    const uint64_t one = 1;
    for (const auto& each : hangup_fds) {
        if (const int fd = each.load(); fd > 0) {
            (void)!::write(fd, &one, sizeof one);
        }
    }
    errno = saved_errno;
}

void replace_hangup_fd(int old, int fd) {
    for (auto& each : hangup_fds) {
        if (int expected = old; each.compare_exchange_strong(expected, fd)) {
            return;
        }
    }
}

}  // namespace

Result<std::unique_ptr<HostThread>> HostThread::create() {
    // NOLINTNEXTLINE(cppcoreguidelines-owning-memory): the constructor is nobody else's.
    return std::unique_ptr<HostThread>(new HostThread(OUTRIGGER_TRY(HostLoop::create())));
}

HostThread::HostThread(HostLoop loop) : loop_(std::move(loop)) {
    replace_hangup_fd(0, loop_.wake_fd());
}

HostThread::~HostThread() {
    stopping_ = true;
    loop_.wake();
    if (thread_.joinable()) {
        thread_.join();
    }
    replace_hangup_fd(loop_.wake_fd(), 0);
}

HostPort& HostThread::add_port(std::unique_ptr<HostPort> port) {
    ports_.push_back(std::move(port));
    return *ports_.back();
}

void HostThread::start_from_worker() {
    const std::lock_guard lock(thread_mutex_);
    if (std::exchange(started_, true)) {
        return;
    }
    auto thread = start_helper_thread("console-host", [this] { run(); });
    if (!thread) {
        log(LogLevel::kError, "console: {}: nobody is served", thread.error().message);
        return;
    }
    thread_ = *std::move(thread);
}

void HostThread::wake() {
    if (!woken_.exchange(true)) {
        loop_.wake();
    }
}

Result<void> HostThread::reopen_on_hangup() {
    struct sigaction action {};

    action.sa_handler = on_hangup;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (::sigaction(SIGHUP, &action, nullptr) != 0) {
        return failure(error_from_errno("cannot handle SIGHUP"));
    }
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGHUP);
    ::pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
    return {};
}

void HostThread::run() {
    const auto stage = std::make_unique_for_overwrite<std::byte[]>(kStageBytes);
    for (const auto& port : ports_) {
        port->start(loop_);
    }
    using Time = HostLoop::Clock::time_point;
    uint32_t hangups_seen = hangups.load();
    std::optional<Time> sizes_due;
    bool more = true;
    while (!stopping_) {
        std::optional<Time> until = more ? std::optional(Time::min()) : sizes_due;
        for (const auto& port : ports_) {
            if (const auto end = port->pause_end()) {
                until = std::min(until.value_or(*end), *end);
            }
        }
        loop_.run_once(until);
        woken_ = false;
        const Time now = HostLoop::Clock::now();
        const uint32_t hangups_now = hangups.load();
        const bool reopen = std::exchange(hangups_seen, hangups_now) != hangups_now;
        const bool look = sizes_due && *sizes_due <= now;
        more = false;
        bool sizes = false;
        for (const auto& port : ports_) {
            if (reopen) {
                port->reopen_files();
            }
            if (port->pause_end() && *port->pause_end() <= now) {
                port->end_pause();
            }
            if (look && port->has_sizes_to_look_at()) {
                port->look_at_sizes();
            }
            more = port->serve({stage.get(), kStageBytes}) || more;
            sizes = sizes || port->has_sizes_to_look_at();
        }
        if (!sizes) {
            sizes_due.reset();
        } else if (!sizes_due || look) {
            sizes_due = now + kSizeInterval;
        }
    }
    // What the guest has written may still go out, as far as nobody has to wait for it.
    for (const auto& port : ports_) {
        (void)port->serve({stage.get(), kStageBytes});
    }
}

}  // namespace outrigger::console
