// SPDX-License-Identifier: Apache-2.0
/// The control socket of a machine: lets our own user and root in, and hands what they ask to the
/// machine.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <string>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/control/machine_operator.h"
#include "vmm-lite/control/operator_connection.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's, or before and after it runs.
class OperatorServer final {
  public:
    /// Clients at a time. What comes beyond is told so.
    static constexpr size_t kConnectionsMax = 16;

    /// Listens at `path`, mode 0600. A socket there that nobody has open is replaced; anything else
    /// stays, and is an error.
    [[nodiscard]] static Result<std::unique_ptr<OperatorServer>> listen(
        EventLoop& loop,
        const std::string& path,
        MachineOperator& machine,
        const OperatorLimits& limits = {});

    OperatorServer(const OperatorServer&) = delete;
    OperatorServer& operator=(const OperatorServer&) = delete;
    /// Removes the socket.
    ~OperatorServer();

  private:
    using Connections = std::list<std::unique_ptr<OperatorConnection>>;

    OperatorServer(EventLoop& loop,
                   std::string path,
                   UniqueFd listener,
                   MachineOperator& machine,
                   const OperatorLimits& limits);

    [[nodiscard]] Result<void> watch();
    void on_connection();
    void serve(UniqueFd socket);
    void handle(const control::v1::Request& request, OperatorConnection::Respond respond);

    EventLoop& loop_;
    const std::string path_;
    UniqueFd listener_;
    MachineOperator& machine_;
    const OperatorLimits limits_;
    LogLimiter client_log_{10};
    Connections connections_;
    EventLoop::Watch watch_;
    EventLoop::Timer accept_again_;
};

}  // namespace outrigger::vmm
