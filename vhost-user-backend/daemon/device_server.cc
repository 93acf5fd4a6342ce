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

}  // namespace

DeviceServer::DeviceServer(Environment environment,
                           Endpoint endpoint,
                           std::move_only_function<void()> on_finished)
    : environment_(std::move(environment)),
      endpoint_(std::move(endpoint)),
      on_finished_(std::move(on_finished)) {}

DeviceServer::~DeviceServer() {
    stop_listening();
}

void DeviceServer::start() {
    if (endpoint_.connection.valid()) {
        serve(std::move(endpoint_.connection));
        return;
    }
    log(LogLevel::kInfo, "{}: listening", environment_.label);
    listen();
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
        // One session at a time: the next front end waits in the backlog.
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
    session_ = std::make_unique<Session>(Session::Environment{.device = environment_.device,
                                                              .control_loop = environment_.loop,
                                                              .workers = environment_.workers,
                                                              .counters = counters_,
                                                              .logs = logs_},
                                         std::move(connection),
                                         environment_.session,
                                         [this](CloseReason reason) { on_closed(reason); });
}

void DeviceServer::on_closed(CloseReason reason) {
    session_log_.log(LogLevel::kInfo, "{}: disconnected: {}", environment_.label, describe(reason));
    // The session is still on the stack.
    environment_.loop.post([this] {
        session_.reset();
        if (shutting_down_ || environment_.exit_on_disconnect || !endpoint_.listener) {
            finish();
        } else {
            listen();
        }
    });
}

void DeviceServer::shut_down() {
    if (std::exchange(shutting_down_, true)) {
        return;
    }
    stop_listening();
    // No front end should find a socket that nobody will answer.
    endpoint_.listener.reset();
    if (session_ != nullptr) {
        session_->close();
    } else {
        finish();
    }
}

void DeviceServer::finish() {
    stop_listening();
    endpoint_.listener.reset();
    if (on_finished_) {
        std::exchange(on_finished_, nullptr)();
    }
}

}  // namespace outrigger
