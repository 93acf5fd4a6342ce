// SPDX-License-Identifier: Apache-2.0
/// What an operator is told of a share: what its guest asked for, what came of it, and what is held
/// for it. It takes no commands of its own.
#pragma once

#include "vhost-user-backend/control/device_control.h"

namespace outrigger::fs {

class FsDevice;

/// Thread-bound: control thread.
class FsControl final : public control::DeviceControl {
  public:
    explicit FsControl(const FsDevice& device) : device_(device) {}

    void attach(EventLoop& /*control_loop*/, std::span<Worker* const> /*workers*/) override {}

    void describe(control::v1::Device& out) const override;
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                Answer answer) override;

  private:
    const FsDevice& device_;
};

}  // namespace outrigger::fs
