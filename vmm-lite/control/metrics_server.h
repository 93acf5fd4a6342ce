// SPDX-License-Identifier: Apache-2.0
/// The metrics socket of a machine: HTTP, one request a connection.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/control/metrics_http.h"

#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's, or before and after it runs. Never waits for a client.
class MetricsServer final {
  public:
    /// Clients at a time. What comes beyond is closed.
    static constexpr size_t kConnectionsMax = 8;

    using Text = std::function<std::string(MetricsFormat)>;

    struct Limits {
        std::chrono::milliseconds request{10000};  ///< for a client to send its request
        std::chrono::milliseconds reply{10000};    ///< and to take the answer
    };

    /// Listens at `path`: see listen_at().
    [[nodiscard]] static Result<std::unique_ptr<MetricsServer>> listen(EventLoop& loop,
                                                                       const std::string& path,
                                                                       Text text,
                                                                       const Limits& limits);

    MetricsServer(const MetricsServer&) = delete;
    MetricsServer& operator=(const MetricsServer&) = delete;
    /// Removes the socket.
    ~MetricsServer();

  private:
    class Client;

    MetricsServer(
        EventLoop& loop, std::string path, UniqueFd listener, Text text, const Limits& limits);

    [[nodiscard]] Result<void> watch();
    void on_connection();

    EventLoop& loop_;
    const std::string path_;
    UniqueFd listener_;
    const Text text_;
    const Limits limits_;
    std::list<std::unique_ptr<Client>> clients_;
    EventLoop::Watch watch_;
    EventLoop::Timer accept_again_;
};

}  // namespace outrigger::vmm
