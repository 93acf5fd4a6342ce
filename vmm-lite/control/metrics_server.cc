// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/control/metrics_server.h"

#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "vmm-lite/control/listening_socket.h"

namespace outrigger::vmm {
namespace {

constexpr std::chrono::milliseconds kAcceptRetry{250};

}  // namespace

/// One of them: a request, an answer, and the end.
class MetricsServer::Client final {
  public:
    Client(MetricsServer& server, UniqueFd socket, std::function<void()> on_end)
        : server_(server),
          socket_(std::move(socket)),
          on_end_(std::move(on_end)),
          self_(std::make_shared<Client*>(this)) {
        deadline_ = server_.loop_.start_timer(server_.limits_.request, [this] { end(); });
        if (auto watch = server_.loop_.watch(socket_.get(), [this] { on_readable(); })) {
            watch_ = *std::move(watch);
        } else {
            end();
        }
    }

    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    ~Client() = default;

  private:
    /// One read a turn. Behind the answer it reads what nobody wants, because the answer may be
    /// lost with a connection that is closed while there is something unread.
    void on_readable() {
        std::array<std::byte, 2048> buffer;
        const wire::ReceiveResult received = wire::receive_some(socket_.get(), buffer);
        if (received.status == wire::ReceiveStatus::kWouldBlock) {
            return;
        }
        if (received.status != wire::ReceiveStatus::kData) {
            end();
            return;
        }
        if (answers_) {
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

    void answer(const MetricsRequest& request) {
        using Kind = MetricsRequest::Kind;
        answers_ = true;
        const bool found = request.kind == Kind::kMetrics || request.kind == Kind::kMetricsHead;
        outgoing_ = metrics_answer(request, found ? server_.text_(request.format) : "");
        deadline_ = server_.loop_.start_timer(server_.limits_.reply, [this] { end(); });
        send_more();
    }

    void send_more() {
        const wire::SendStatus status = wire::send_rest(socket_.get(), outgoing_, sent_);
        if (status == wire::SendStatus::kFailed) {
            end();
            return;
        }
        if (status == wire::SendStatus::kWouldBlock) {
            watch_.when_writable([this] { send_more(); });
            return;
        }
        // The client ends, too, or its time does.
        if (::shutdown(socket_.get(), SHUT_WR) != 0) {
            end();
        }
    }

    void end() {
        if (!socket_.valid()) {
            return;
        }
        watch_ = {};
        deadline_ = {};
        socket_.reset();
        // Whoever called this is still on the stack.
        server_.loop_.post([self = std::weak_ptr<Client*>(self_)] {
            if (const auto there = self.lock()) {
                // It destroys the object that it is a part of.
                const auto on_end = (*there)->on_end_;
                on_end();
            }
        });
    }

    MetricsServer& server_;
    UniqueFd socket_;
    const std::function<void()> on_end_;
    std::string head_;      // of the request, as far as it came
    std::string outgoing_;  // the answer
    size_t sent_ = 0;
    bool answers_ = false;
    EventLoop::Watch watch_;
    EventLoop::Timer deadline_;
    std::shared_ptr<Client*> self_;  // what posted tasks hold weakly
};

Result<std::unique_ptr<MetricsServer>> MetricsServer::listen(EventLoop& loop,
                                                             const std::string& path,
                                                             Text text,
                                                             const Limits& limits) {
    UniqueFd listener = OUTRIGGER_TRY(listen_at(path, "--metrics"));
    auto server = std::unique_ptr<MetricsServer>(
        new MetricsServer(loop, path, std::move(listener), std::move(text), limits));
    OUTRIGGER_TRY(server->watch());
    return server;
}

MetricsServer::MetricsServer(
    EventLoop& loop, std::string path, UniqueFd listener, Text text, const Limits& limits)
    : loop_(loop),
      path_(std::move(path)),
      listener_(std::move(listener)),
      text_(std::move(text)),
      limits_(limits) {}

MetricsServer::~MetricsServer() {
    (void)::unlink(path_.c_str());
}

Result<void> MetricsServer::watch() {
    watch_ = OUTRIGGER_TRY(loop_.watch(listener_.get(), [this] { on_connection(); }));
    return {};
}

void MetricsServer::on_connection() {
    UniqueFd socket = platform::accept_connection(listener_.get());
    if (socket.valid()) {
        if (clients_.size() < kConnectionsMax) {
            clients_.emplace_front();
            const auto place = clients_.begin();
            *place = std::make_unique<Client>(
                *this, std::move(socket), [this, place] { clients_.erase(place); });
        }
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
        return;
    }
    // It stays in the backlog, and the socket readable: trying at once would spin.
    accept_again_ = loop_.start_timer(kAcceptRetry, [this] {
        if (const auto watching = watch(); !watching) {
            log(LogLevel::kError, "metrics: {}", watching.error().message);
        }
    });
    watch_ = {};
}

}  // namespace outrigger::vmm
