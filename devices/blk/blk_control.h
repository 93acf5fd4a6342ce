// SPDX-License-Identifier: Apache-2.0
/// The block device's end of the control socket: the messages of outrigger_control.proto in terms
/// of BlkChanges.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/control/device_control.h"

#include "devices/blk/blk_changes.h"
#include "devices/blk/blk_device.h"

namespace outrigger::blk {

/// Thread-bound: control thread.
class BlkControl final : public control::DeviceControl {
  public:
    explicit BlkControl(BlkDevice& device) : device_(device), changes_(device) {}

    void attach(EventLoop& control_loop, std::span<Worker* const> workers) override;

    void tell_departures_to(control::TellDeparture tell_departure) override {
        changes_.tell_departures_to(std::move(tell_departure));
    }

    void describe(control::v1::Device& out) const override;
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                Answer answer) override;

  private:
    void resize(const control::v1::Request& request, Answer answer);
    void set_cache(const control::v1::Request& request, Answer answer);
    void set_limits(const control::v1::Request& request, Answer answer);
    void set_error_policy(const control::v1::Request& request, Answer answer);
    void fill(const control::v1::Request& request, Answer answer);
    void swap_image(const control::v1::Request& request, std::vector<UniqueFd> fds, Answer answer);

    /// Commands that were begun and not answered. A client that leaves takes its connection along
    /// and not its command, so connections do not bound them.
    static constexpr size_t kCommandsMax = 32;

    void dispatch(const control::v1::Request& request, std::vector<UniqueFd> fds, Answer answer);

    BlkDevice& device_;
    BlkChanges changes_;
    size_t commands_ = 0;
};

}  // namespace outrigger::blk
