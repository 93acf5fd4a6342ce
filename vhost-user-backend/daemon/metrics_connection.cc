// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/metrics_connection.h"

#include <array>
#include <chrono>
#include <span>
#include <utility>

#include <sys/socket.h>

#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger {
namespace {

/// How often a socket without room is tried again.
constexpr auto kSendInterval = std::chrono::milliseconds(20);

}  // namespace

MetricsConnection::MetricsConnection(EventLoop& loop,
                                     UniqueFd socket,
                                     const Limits& limits,
                                     Handler handler)
    : loop_(loop),
      socket_(std::move(socket)),
      limits_(limits),
      handler_(std::move(handler)),
      self_(std::make_shared<MetricsConnection*>(this)) {
    start_deadline(limits_.request);
    watch_ = loop_.watch_readable(socket_.get(), [this] { on_readable(); });
}

MetricsConnection::~MetricsConnection() {
    stop_waiting();
}

void MetricsConnection::stop_waiting() {
    if (watch_) {
        loop_.unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (deadline_) {
        loop_.cancel_timer(*std::exchange(deadline_, std::nullopt));
    }
    if (look_) {
        loop_.cancel_timer(*std::exchange(look_, std::nullopt));
    }
}

void MetricsConnection::start_deadline(EventLoop::Clock::duration delay) {
    deadline_ = loop_.start_timer(EventLoop::Clock::now() + delay, [this] {
        deadline_.reset();
        end();
    });
}

/// One read a turn: other clients, and sessions, have theirs.
void MetricsConnection::on_readable() {
    std::array<std::byte, 2048> buffer;
    const wire::ReceiveResult received = wire::receive_some(socket_.get(), buffer);
    if (received.status == wire::ReceiveStatus::kWouldBlock) {
        return;
    }
    if (received.status != wire::ReceiveStatus::kData) {
        end();
        return;
    }
    for (const std::byte each : std::span(buffer).first(received.bytes)) {
        head_ += static_cast<char>(each);
    }
    if (is_complete_request(head_)) {
        answer(parse_metrics_request(head_));
    } else if (head_.size() > kMetricsRequestBytesMax) {
        answer({});
    }
}

void MetricsConnection::answer(const MetricsRequest& request) {
    stop_waiting();
    using Kind = MetricsRequest::Kind;
    const bool found = request.kind == Kind::kMetrics || request.kind == Kind::kMetricsHead;
    outgoing_ = metrics_answer(request, found ? handler_.text(request.format) : "");
    more_may_come_ = request.kind == Kind::kNotAllowed || request.kind == Kind::kMalformed;
    start_deadline(limits_.reply);
    send_more();
}

void MetricsConnection::send_more() {
    const wire::SendStatus status = wire::send_rest(socket_.get(), outgoing_, sent_);
    if (status == wire::SendStatus::kWouldBlock) {
        look_ = loop_.start_timer(EventLoop::Clock::now() + kSendInterval, [this] {
            look_.reset();
            send_more();
        });
        return;
    }
    if (more_may_come_ && status == wire::SendStatus::kSent &&
        ::shutdown(socket_.get(), SHUT_WR) == 0) {
        watch_ = loop_.watch_readable(socket_.get(), [this] { on_rest(); });
        return;
    }
    end();
}

void MetricsConnection::on_rest() {
    std::array<std::byte, 2048> buffer;
    const wire::ReceiveStatus status = wire::receive_some(socket_.get(), buffer).status;
    if (status != wire::ReceiveStatus::kWouldBlock && status != wire::ReceiveStatus::kData) {
        end();
    }
}

void MetricsConnection::end() {
    if (!socket_.valid()) {
        return;
    }
    stop_waiting();
    socket_.reset();
    // Whoever called this is still on the stack.
    loop_.post([self = std::weak_ptr<MetricsConnection*>(self_)] {
        if (const auto there = self.lock()) {
            (*there)->handler_.on_end();
        }
    });
}

}  // namespace outrigger
