// SPDX-License-Identifier: Apache-2.0
/// What an operator may ask of a console: how its ports are, and to plug one or pull it out.
#pragma once

#include "vhost-user-backend/control/device_control.h"

namespace outrigger::console {

class ConsoleDevice;

/// Thread-bound: control thread.
class ConsoleControl final : public control::DeviceControl {
  public:
    explicit ConsoleControl(ConsoleDevice& device) : device_(device) {}

    void attach(EventLoop& control_loop, std::span<Worker* const> workers) override;
    void describe(control::v1::Device& out) const override;
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                Answer answer) override;

  private:
    ConsoleDevice& device_;
};

}  // namespace outrigger::console
