// SPDX-License-Identifier: Apache-2.0
/// What may pass at a port, how much and from whom: what the command line says of it, and what an
/// operator says later, which outlives the process.
///
/// Thread-bound: control thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"

#include "devices/net/guarded_port.h"
#include "devices/net/limited_port.h"

namespace outrigger {
class Worker;
}  // namespace outrigger

namespace outrigger::control::v1 {
class NetworkPolicy;
}  // namespace outrigger::control::v1

namespace outrigger::net {

struct PolicyValues {
    PortLimits limits{};
    SenderRules rules{};
};

class PortPolicy final {
  public:
    /// Of each list: each frame is compared with all, and a description of the device has them.
    static constexpr size_t kNamesMax = 256;

    static constexpr size_t kRecordBytesMax = 32 << 10;
    static constexpr size_t kKeptBytes = KeptRecord::bytes(kRecordBytesMax);

    /// `given`: what the command line says. `kept`: of kKeptBytes, which outlive this process, or
    /// empty; what an operator has told another process with that command line counts.
    PortPolicy(PolicyValues given, Mapping kept);

    /// Before anything is changed, once: what holds the port to it, and lives as long as this.
    [[nodiscard]] std::unique_ptr<Port> govern(std::unique_ptr<Port> port);

    /// What holds, or is about to.
    [[nodiscard]] const PolicyValues& values() const { return values_; }

    /// Another process that goes on holds the port to it from now on, and this one when `worker`,
    /// which has the queues, calls `done`. An error: there are too many names, and nothing was
    /// changed.
    [[nodiscard]] Result<void> change(PolicyValues values,
                                      Worker& worker,
                                      std::move_only_function<void()> done);

    static void to_message(const PolicyValues& values, control::v1::NetworkPolicy& out);

  private:
    [[nodiscard]] std::optional<PolicyValues> recall() const;

    const uint64_t command_line_;
    const Mapping kept_;
    PolicyValues values_;
    LimitedPort* limited_ = nullptr;
    GuardedPort* guarded_ = nullptr;
};

}  // namespace outrigger::net
