// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/metrics_connection.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <span>
#include <utility>

#include <sys/socket.h>

#include <fmt/core.h>

#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger {
namespace {

/// How often a socket without room is tried again.
constexpr auto kSendInterval = std::chrono::milliseconds(20);

char to_lower(char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
}

/// The end of a request's head: an empty line, whose lines may end without a carriage return.
bool is_complete(std::string_view head) {
    return head.find("\r\n\r\n") != std::string_view::npos ||
           head.find("\n\n") != std::string_view::npos;
}

/// Does a field named "accept" name OpenMetrics?
bool accepts_open_metrics(std::string_view fields) {
    while (!fields.empty()) {
        const std::string_view line = fields.substr(0, fields.find('\n'));
        fields.remove_prefix(std::min(fields.size(), line.size() + 1));
        std::string name(line.substr(0, line.find(':')));
        std::ranges::transform(name, name.begin(), to_lower);
        if (name == "accept" &&
            line.find("application/openmetrics-text") != std::string_view::npos) {
            return true;
        }
    }
    return false;
}

std::string_view status_of(MetricsRequest::Kind kind) {
    switch (kind) {
        case MetricsRequest::Kind::kMetrics:
        case MetricsRequest::Kind::kMetricsHead:
            return "200 OK";
        case MetricsRequest::Kind::kNotFound:
            return "404 Not Found";
        case MetricsRequest::Kind::kNotAllowed:
            return "405 Method Not Allowed";
        case MetricsRequest::Kind::kMalformed:
            return "400 Bad Request";
    }
    return "400 Bad Request";
}

}  // namespace

MetricsRequest parse_metrics_request(std::string_view head) {
    using Kind = MetricsRequest::Kind;
    const size_t line_bytes = head.find('\n');
    if (line_bytes == std::string_view::npos) {
        return {};
    }
    std::string_view line = head.substr(0, line_bytes);
    if (line.ends_with('\r')) {
        line.remove_suffix(1);
    }
    const size_t first = line.find(' ');
    const size_t last = line.rfind(' ');
    if (first == std::string_view::npos || first == 0 || last == first ||
        !line.substr(last + 1).starts_with("HTTP/1.")) {
        return {};
    }
    const std::string_view method = line.substr(0, first);
    std::string_view target = line.substr(first + 1, last - first - 1);
    target = target.substr(0, target.find('?'));
    if (target.empty() || target.find(' ') != std::string_view::npos) {
        return {};
    }
    MetricsRequest request;
    if (method != "GET" && method != "HEAD") {
        request.kind = Kind::kNotAllowed;
    } else if (target != "/metrics") {
        request.kind = Kind::kNotFound;
    } else {
        request.kind = method == "GET" ? Kind::kMetrics : Kind::kMetricsHead;
        request.format = accepts_open_metrics(head.substr(line_bytes + 1))
                             ? MetricsFormat::kOpenMetrics
                             : MetricsFormat::kPrometheus;
    }
    return request;
}

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
    if (is_complete(head_)) {
        answer(parse_metrics_request(head_));
    } else if (head_.size() > kRequestBytesMax) {
        answer({});
    }
}

void MetricsConnection::answer(const MetricsRequest& request) {
    stop_waiting();
    using Kind = MetricsRequest::Kind;
    const std::string_view status = status_of(request.kind);
    const bool found = request.kind == Kind::kMetrics || request.kind == Kind::kMetricsHead;
    const std::string text =
        found ? handler_.text(request.format) : std::string(status).append(1, '\n');
    outgoing_ = fmt::format(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
        status,
        found ? metrics_content_type(request.format) : "text/plain; charset=utf-8",
        text.size(),
        request.kind == Kind::kNotAllowed ? "Allow: GET, HEAD\r\n" : "");
    if (request.kind != Kind::kMetricsHead) {
        outgoing_ += text;
    }
    more_may_come_ = request.kind == Kind::kNotAllowed || request.kind == Kind::kMalformed;
    start_deadline(limits_.reply);
    send_more();
}

void MetricsConnection::send_more() {
    while (sent_ < outgoing_.size()) {
        const auto rest = std::as_bytes(std::span(outgoing_)).subspan(sent_);
        const wire::SendResult result = wire::send_some(socket_.get(), rest, {}, {});
        if (result.status == wire::SendStatus::kFailed) {
            break;
        }
        if (result.status == wire::SendStatus::kWouldBlock) {
            look_ = loop_.start_timer(EventLoop::Clock::now() + kSendInterval, [this] {
                look_.reset();
                send_more();
            });
            return;
        }
        sent_ += result.bytes;
    }
    if (more_may_come_ && sent_ == outgoing_.size() && ::shutdown(socket_.get(), SHUT_WR) == 0) {
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
