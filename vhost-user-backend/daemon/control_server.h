// SPDX-License-Identifier: Apache-2.0
/// The control socket of a daemon: lets our own user and root in, answers what concerns the program
/// and hands the rest to the devices.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/control_connection.h"
#include "vhost-user-backend/daemon/drain_commands.h"
#include "vhost-user-backend/daemon/program_description.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// Thread-bound: control thread.
class ControlServer final {
  public:
    /// Clients at a time. What comes beyond is told so.
    static constexpr size_t kConnectionsMax = 16;

    struct Environment {
        EventLoop& loop;
        const ProgramDescription& description;
        uid_t own_user;   ///< may use the socket, as root may
        uid_t root_user;  ///< what root looks like in our user namespace
        TellDrain tell_drain;
        ControlConnection::Limits limits = kDefaultLimits;
    };

    static constexpr ControlConnection::Limits kDefaultLimits = {
        .request = std::chrono::seconds(10),
        .reply = std::chrono::seconds(10),
        .idle = std::chrono::minutes(5),
    };

    /// With a listener, or one connection.
    ControlServer(Environment environment, Endpoint endpoint);
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;
    ~ControlServer();

    void start();

    /// Lets nobody in any more, and leaves the socket to the next process.
    void leave() { unwatch(); }

    /// Lets nobody in any more, and removes the socket. Commands that were begun are answered.
    void stop_listening();

  private:
    using Connections = std::list<std::unique_ptr<ControlConnection>>;

    void listen();
    void unwatch();
    void on_connection();
    void serve(UniqueFd socket);
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                const std::string& peer,
                const ControlConnection::Respond& respond);
    void hand_on(const control::v1::Request& request,
                 std::vector<UniqueFd> fds,
                 const std::string& peer,
                 const ControlConnection::Respond& respond);
    void describe(const control::v1::Request& request, control::v1::Reply& reply) const;

    Environment environment_;
    DrainCommands drains_;
    Endpoint endpoint_;
    LogLimiter client_log_{10};
    std::optional<WatchId> watch_;
    std::optional<TimerId> accept_timer_;
    Connections connections_;
};

}  // namespace outrigger
