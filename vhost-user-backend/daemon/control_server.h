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
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/control_connection.h"
#include "vhost-user-backend/daemon/device_server.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// Thread-bound: control thread.
class ControlServer final {
  public:
    /// Clients at a time. What comes beyond is told so.
    static constexpr size_t kConnectionsMax = 16;

    struct Target {
        std::string name;
        std::string_view type;
        std::string socket;
        Device& device;
        const DeviceServer& server;
    };

    struct Environment {
        EventLoop& loop;
        std::string_view program;
        std::string_view version;
        uid_t own_user;        ///< may use the socket, as root may
        pid_t keeper_pid = 0;  ///< our parent, if it is a keeper
        std::vector<Target> targets;
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
    [[nodiscard]] const Target* find(const std::string& name) const;
    void describe(const control::v1::Request& request, control::v1::Reply& reply) const;
    void describe(const Target& target, control::v1::Reply& reply) const;

    Environment environment_;
    Endpoint endpoint_;
    LogLimiter client_log_{10};
    std::optional<WatchId> watch_;
    std::optional<TimerId> accept_timer_;
    Connections connections_;
};

}  // namespace outrigger
