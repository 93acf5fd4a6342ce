// SPDX-License-Identifier: Apache-2.0
/// What an operator sees of a socket device: its connections, and why others ended.
#pragma once

#include "vhost-user-backend/control/device_control.h"

namespace outrigger::vsock {

class VsockDevice;

/// Thread-bound: control thread.
class VsockControl final : public control::DeviceControl {
  public:
    /// Connections that one answer has; the others are counted.
    static constexpr size_t kShownMax = 100;

    explicit VsockControl(const VsockDevice& device) : device_(device) {}

    void attach(EventLoop& control_loop, std::span<Worker* const> workers) override;
    void describe(control::v1::Device& out) const override;
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                Answer answer) override;

  private:
    const VsockDevice& device_;
};

}  // namespace outrigger::vsock
