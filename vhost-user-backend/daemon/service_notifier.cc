// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/service_notifier.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include <sys/socket.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/service_manager.h"

namespace outrigger {
namespace {

/// Front ends may come and go as often as they like: the service manager hears of the last one.
/// Also the time after which what found no room in its socket is sent again.
constexpr auto kStatusDelay = std::chrono::milliseconds(200);

/// Signs of life in the time that the service manager allows between two.
constexpr int kSignsPerLimit = 4;

std::optional<EventLoop::Clock::duration> watchdog_interval(bool parent_is_keeper) {
    const auto limit_us = service_manager::text_of("WATCHDOG_USEC");
    if (!limit_us || (service_manager::text_of("WATCHDOG_PID") &&
                      !service_manager::is_for_us("WATCHDOG_PID", parent_is_keeper))) {
        return std::nullopt;
    }
    // Longer than an int has room for counts as that: half an hour, and more signs than asked for.
    const int limit = service_manager::number_of("WATCHDOG_USEC").value_or(INT32_MAX);
    return limit > 0 ? std::optional(std::chrono::microseconds(limit) / kSignsPerLimit)
                     : std::nullopt;
}

}  // namespace

std::unique_ptr<ServiceNotifier> ServiceNotifier::from_environment(bool parent_is_keeper) {
    if (!service_manager::text_of("NOTIFY_SOCKET")) {
        return nullptr;
    }
    auto socket = service_manager::connect();
    if (!socket) {
        log(LogLevel::kWarning, "{}", socket.error().message);
        return nullptr;
    }
    return std::unique_ptr<ServiceNotifier>(
        new ServiceNotifier(*std::move(socket), watchdog_interval(parent_is_keeper)));
}

ServiceNotifier::~ServiceNotifier() {
    for (const auto& timer : {tell_timer_, watchdog_timer_}) {
        if (timer) {
            loop_->cancel_timer(*timer);
        }
    }
}

void ServiceNotifier::begin(EventLoop& loop, std::vector<Worker*> asked) {
    loop_ = &loop;
    asked_ = std::move(asked);
    if (watchdog_) {
        keep_alive();
    }
}

void ServiceNotifier::ready() {
    is_ready_ = true;
    tell();
}

void ServiceNotifier::show_status(std::string status) {
    status_ = std::move(status);
    if (is_ready_) {
        tell_later();
    }
}

void ServiceNotifier::stopping() {
    is_stopping_ = true;
    status_ = "stopping";
    tell();
}

/// False when there is no room for it now.
bool ServiceNotifier::send(std::string_view text) const {
    return ::send(socket_.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
           (errno != EAGAIN && errno != ENOBUFS);
}

/// All of it each time: said twice it means the same.
void ServiceNotifier::tell() {
    std::string text = is_stopping_ ? "STOPPING=1" : "READY=1";
    if (!status_.empty()) {
        text += "\nSTATUS=" + status_;
    }
    if (!send(text)) {
        tell_later();
    }
}

void ServiceNotifier::tell_later() {
    if (!tell_timer_) {
        tell_timer_ = loop_->start_timer(EventLoop::Clock::now() + kStatusDelay, [this] {
            tell_timer_.reset();
            tell();
        });
    }
}

/// One sign for each round in which all answered, so one that is stuck ends them. This thread's own
/// answer is that it is here.
void ServiceNotifier::keep_alive() {
    if (*unanswered_ == 0) {
        (void)send("WATCHDOG=1");  // if there is no room for it, the next one is soon enough
        *unanswered_ = asked_.size();
        for (Worker* const worker : asked_) {
            worker->post([loop = loop_, unanswered = unanswered_] {
                loop->post([unanswered] { --*unanswered; });
            });
        }
    }
    watchdog_timer_ =
        loop_->start_timer(EventLoop::Clock::now() + *watchdog_, [this] { keep_alive(); });
}

}  // namespace outrigger
