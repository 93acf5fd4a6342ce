// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/metrics_server.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/metrics_text.h"

namespace outrigger {
namespace {

constexpr auto kAcceptRetry = std::chrono::milliseconds(250);

}  // namespace

MetricsServer::MetricsServer(const Environment& environment, ListeningSocket listener)
    : environment_(environment), listener_(std::move(listener)) {
    listen();
}

MetricsServer::~MetricsServer() {
    leave();
}

void MetricsServer::leave() {
    if (watch_) {
        environment_.loop.unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (accept_timer_) {
        environment_.loop.cancel_timer(*std::exchange(accept_timer_, std::nullopt));
    }
}

void MetricsServer::stop_listening() {
    leave();
    connections_.clear();
    listener_ = {};
}

void MetricsServer::listen() {
    watch_ = environment_.loop.watch_readable(listener_.fd.get(), [this] { on_connection(); });
}

void MetricsServer::on_connection() {
    UniqueFd socket = platform::accept_connection(listener_.fd.get());
    if (socket.valid()) {
        serve(std::move(socket));
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
        return;
    }
    // It stays in the backlog, and the socket readable: trying at once would spin.
    leave();
    accept_timer_ = environment_.loop.start_timer(EventLoop::Clock::now() + kAcceptRetry, [this] {
        accept_timer_.reset();
        listen();
    });
}

void MetricsServer::serve(UniqueFd socket) {
    if (connections_.size() >= kConnectionsMax) {
        return;
    }
    connections_.emplace_front();
    const auto place = connections_.begin();
    *place = std::make_unique<MetricsConnection>(
        environment_.loop,
        std::move(socket),
        environment_.limits,
        MetricsConnection::Handler{.text =
                                       [this](MetricsFormat format) {
                                           control::v1::Program program;
                                           environment_.description.describe(program);
                                           return metrics_text(program, format);
                                       },
                                   .on_end = [this, place] { connections_.erase(place); }});
}

}  // namespace outrigger
