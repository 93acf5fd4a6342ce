// SPDX-License-Identifier: Apache-2.0
/// The metrics socket of a daemon: tells whoever may connect what the program has counted.
#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <memory>
#include <optional>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/daemon/metrics_connection.h"
#include "vhost-user-backend/daemon/program_description.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// Thread-bound: control thread.
class MetricsServer final {
  public:
    /// Clients at a time. What comes beyond is closed.
    static constexpr size_t kConnectionsMax = 8;

    struct Environment {
        EventLoop& loop;
        const ProgramDescription& description;
        MetricsConnection::Limits limits = {.request = std::chrono::seconds(5),
                                            .reply = std::chrono::seconds(10)};
    };

    MetricsServer(const Environment& environment, ListeningSocket listener);
    MetricsServer(const MetricsServer&) = delete;
    MetricsServer& operator=(const MetricsServer&) = delete;
    ~MetricsServer();

    /// Lets nobody in any more, and leaves the socket to the next process.
    void leave();

    /// Lets nobody in any more, and removes the socket.
    void stop_listening();

  private:
    using Connections = std::list<std::unique_ptr<MetricsConnection>>;

    void listen();
    void on_connection();
    void serve(UniqueFd socket);

    const Environment environment_;
    ListeningSocket listener_;
    std::optional<WatchId> watch_;
    std::optional<TimerId> accept_timer_;
    Connections connections_;
};

}  // namespace outrigger
