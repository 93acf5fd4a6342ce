// SPDX-License-Identifier: Apache-2.0
/// What an operator may ask of an entropy device: what it gave and waited for, and another limit.
#pragma once

#include "vhost-user-backend/control/device_control.h"

namespace outrigger::control::v1 {
class SetEntropyLimit;
}  // namespace outrigger::control::v1

namespace outrigger::rng {

class RngDevice;

/// Thread-bound: control thread.
class RngControl final : public control::DeviceControl {
  public:
    explicit RngControl(RngDevice& device) : device_(device) {}

    void attach(EventLoop& control_loop, std::span<Worker* const> workers) override;
    void describe(control::v1::Device& out) const override;
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                Answer answer) override;

  private:
    void set_limit(const control::v1::SetEntropyLimit& wish, Answer answer);

    RngDevice& device_;
    EventLoop* control_loop_ = nullptr;
};

}  // namespace outrigger::rng
