// SPDX-License-Identifier: Apache-2.0
/// One client of the metrics socket: a request of HTTP, an answer, and the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/control/metrics_http.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// Thread-bound: control thread. Never waits for its client.
class MetricsConnection final {
  public:
    struct Limits {
        EventLoop::Clock::duration request;  ///< for a client to send its request
        EventLoop::Clock::duration reply;    ///< and to take the answer
    };

    struct Handler {
        std::function<std::string(MetricsFormat)> text;
        /// The connection has ended. Called from a posted task; the object may be destroyed.
        std::function<void()> on_end;
    };

    MetricsConnection(EventLoop& loop, UniqueFd socket, const Limits& limits, Handler handler);
    MetricsConnection(const MetricsConnection&) = delete;
    MetricsConnection& operator=(const MetricsConnection&) = delete;
    ~MetricsConnection();

  private:
    void on_readable();
    void answer(const MetricsRequest& request);
    void send_more();
    /// Reads a body that nobody wants, or the rest of what is no request, until the client ends:
    /// the answer may be lost with a connection that is closed while there is something unread.
    void on_rest();
    void start_deadline(EventLoop::Clock::duration delay);
    void stop_waiting();
    void end();

    EventLoop& loop_;
    UniqueFd socket_;
    const Limits limits_;
    Handler handler_;
    std::string head_;      // of the request, as far as it came
    std::string outgoing_;  // the answer
    size_t sent_ = 0;
    bool more_may_come_ = false;
    std::optional<WatchId> watch_;
    std::optional<TimerId> deadline_;
    std::optional<TimerId> look_;               // at a socket that is full
    std::shared_ptr<MetricsConnection*> self_;  // what posted tasks hold weakly
};

}  // namespace outrigger
