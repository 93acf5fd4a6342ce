// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/device_server.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

/// accept() is tried again after this time when the host has no descriptor or memory to spare.
constexpr auto kAcceptRetry = std::chrono::milliseconds(250);

/// Front ends that are taken out of the backlog at a time; ours is shorter (an inherited one may be
/// longer, and then takes more rounds).
constexpr size_t kWaitingMax = 16;

/// Time for a session to see its front end go.
constexpr auto kRefusalInterval = std::chrono::milliseconds(50);

}  // namespace

DeviceServer::DeviceServer(Environment environment,
                           Endpoint endpoint,
                           KeptSession kept,
                           std::move_only_function<void()> on_finished)
    : environment_(std::move(environment)),
      endpoint_(std::move(endpoint)),
      queue_metrics_(environment_.device.identity().queue_count),
      kept_(std::move(kept)),
      on_finished_(std::move(on_finished)) {
    if (environment_.starts_drained) {
        gate_.close();
    }
}

DeviceServer::~DeviceServer() {
    stop_listening();
    stop_limiting();
}

void DeviceServer::start(std::move_only_function<void()> on_begun) {
    on_begun_ = std::move(on_begun);
    if (kept_.saved) {
        go_on();
        return;
    }
    if (endpoint_.connection.valid()) {
        serve(std::move(endpoint_.connection));
    } else if (endpoint_.listener) {
        log(LogLevel::kInfo, "{}: listening", environment_.label);
        listen();
    } else {
        // Its one front end went before the process was started again.
        environment_.loop.post([this] { finish(); });
    }
    std::exchange(on_begun_, nullptr)();
}

Session::Environment DeviceServer::session_environment() {
    return {.device = environment_.device,
            .control_loop = environment_.loop,
            .workers = environment_.workers,
            .counters = counters_,
            .queue_metrics = queue_metrics_,
            .logs = logs_,
            .journal = kept_.journal.get(),
            .gate = &gate_,
            .on_quiet = [this] { on_quiet(); }};
}

void DeviceServer::go_on() {
    SavedSession saved = *std::exchange(kept_.saved, std::nullopt);
    saved.on_restored = [this] { std::exchange(on_begun_, nullptr)(); };
    saved.on_not_restored = environment_.on_not_restored;
    session_ = std::make_unique<Session>(
        session_environment(),
        std::move(kept_.connection),
        environment_.session,
        [this](CloseReason reason) { on_closed(reason); },
        std::move(saved));
    if (endpoint_.listener) {
        limit_waiting(environment_.session.message_timeout);
    }
    environment_.on_front_end();
}

void DeviceServer::listen() {
    listen_watch_ =
        environment_.loop.watch_readable(endpoint_.listener->fd.get(), [this] { on_connection(); });
}

void DeviceServer::stop_listening() {
    if (listen_watch_) {
        environment_.loop.unwatch(*std::exchange(listen_watch_, std::nullopt));
    }
    if (accept_timer_) {
        environment_.loop.cancel_timer(*std::exchange(accept_timer_, std::nullopt));
    }
}

void DeviceServer::on_connection() {
    UniqueFd connection = platform::accept_connection(endpoint_.listener->fd.get());
    if (connection.valid()) {
        // One session at a time: the next front end waits in the backlog, but see limit_waiting().
        stop_listening();
        serve(std::move(connection));
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        wait_after_failed_accept(errno);
    }
}

/// The connection stays in the backlog and the socket readable, so trying at once would spin.
void DeviceServer::wait_after_failed_accept(int os_error) {
    log(LogLevel::kWarning,
        "{}: {}; trying again",
        environment_.label,
        error_from_code("cannot accept a front end", os_error).message);
    stop_listening();
    accept_timer_ = environment_.loop.start_timer(EventLoop::Clock::now() + kAcceptRetry, [this] {
        accept_timer_.reset();
        listen();
    });
}

void DeviceServer::serve(UniqueFd connection) {
    session_log_.log(LogLevel::kInfo,
                     "{}: connected: {}",
                     environment_.label,
                     platform::describe_peer(connection.get()));
    session_ = std::make_unique<Session>(session_environment(),
                                         std::move(connection),
                                         environment_.session,
                                         [this](CloseReason reason) { on_closed(reason); });
    if (endpoint_.listener) {
        limit_waiting(environment_.session.message_timeout);
    }
    environment_.on_front_end();
}

/// What a connection in the backlog was sent may hold descriptors, and one of them may be the other
/// end of the session that is served: that session would never see its front end go, and so nobody
/// would ever read the backlog. So nobody waits for ever.
void DeviceServer::limit_waiting(EventLoop::Clock::duration delay) {
    waiting_timer_ = environment_.loop.start_timer(EventLoop::Clock::now() + delay,
                                                   [this] { on_waiting_timer(); });
}

void DeviceServer::on_waiting_timer() {
    if (overdue_ == 0) {
        overdue_ = waiting_.size();
        accept_waiting();
    }
    if (overdue_ > 0) {
        session_log_.log(
            LogLevel::kInfo, "{}: refused another: the device is in use", environment_.label);
        waiting_.erase(waiting_.begin());
        --overdue_;
    }
    // One after the other: this one may have been what kept the session, and the next be served.
    limit_waiting(overdue_ > 0 ? kRefusalInterval : environment_.session.message_timeout);
}

void DeviceServer::accept_waiting() {
    while (waiting_.size() < kWaitingMax) {
        UniqueFd connection = platform::accept_connection(endpoint_.listener->fd.get());
        if (!connection.valid()) {
            return;  // no more, or no descriptor to spare: the next round looks again
        }
        waiting_.push_back(std::move(connection));
    }
}

void DeviceServer::stop_limiting() {
    if (waiting_timer_) {
        environment_.loop.cancel_timer(*std::exchange(waiting_timer_, std::nullopt));
    }
    overdue_ = 0;
}

void DeviceServer::serve_next() {
    if (waiting_.empty()) {
        listen();
        return;
    }
    UniqueFd next = std::move(waiting_.front());
    waiting_.erase(waiting_.begin());
    serve(std::move(next));
}

void DeviceServer::on_closed(CloseReason reason) {
    session_log_.log(LogLevel::kInfo, "{}: disconnected: {}", environment_.label, describe(reason));
    if (on_begun_) {
        std::exchange(on_begun_, nullptr)();
    }
    // The session is still on the stack.
    environment_.loop.post([this] {
        session_.reset();
        on_quiet();
        environment_.on_front_end();
        stop_limiting();
        if (shutting_down_ || environment_.exit_on_disconnect || !endpoint_.listener) {
            finish();
        } else {
            serve_next();
        }
    });
}

void DeviceServer::leave(std::move_only_function<void(bool)> left) {
    stop_listening();
    stop_limiting();
    if (session_ != nullptr) {
        session_->leave(std::move(left));
    } else {
        left(!shutting_down_);
    }
}

void DeviceServer::drain(std::move_only_function<void(bool)> drained) {
    waiting_for_quiet_.push_back(std::move(drained));
    if (!gate_.is_closed()) {
        gate_.close();
        if (session_ != nullptr) {
            session_->on_gate_changed();
        }
    }
    on_quiet();
}

void DeviceServer::resume() {
    if (!gate_.is_closed()) {
        return;
    }
    gate_.open();
    if (session_ != nullptr) {
        session_->on_gate_changed();
    }
    tell_drained(false);
}

DeviceServer::Intake DeviceServer::intake() const {
    if (!gate_.is_closed()) {
        return Intake::kOpen;
    }
    return session_ == nullptr || session_->is_quiet() ? Intake::kDrained : Intake::kDraining;
}

void DeviceServer::on_quiet() {
    if (intake() == Intake::kDrained) {
        tell_drained(true);
    }
}

void DeviceServer::tell_drained(bool drained) {
    for (auto& waiting : std::exchange(waiting_for_quiet_, {})) {
        waiting(drained);
    }
}

void DeviceServer::shut_down() {
    if (std::exchange(shutting_down_, true)) {
        return;
    }
    stop_listening();
    stop_limiting();
    waiting_.clear();
    // No front end should find a socket that nobody will answer.
    close_listener();
    if (session_ != nullptr) {
        session_->close();
    } else {
        finish();
    }
}

void DeviceServer::close_listener() {
    if (!endpoint_.listener) {
        return;
    }
    endpoint_.listener.reset();
    if (environment_.keeper != nullptr) {
        for (const std::string& name : environment_.listener_names) {
            environment_.keeper->forget(name);
        }
    }
}

void DeviceServer::finish() {
    stop_listening();
    waiting_.clear();
    close_listener();
    if (on_finished_) {
        std::exchange(on_finished_, nullptr)();
    }
}

}  // namespace outrigger
