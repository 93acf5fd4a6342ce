// SPDX-License-Identifier: Apache-2.0
/// What an operator may ask of a network device: what has passed, and what was dropped and why;
/// a capture; other limits and senders.
#pragma once

#include "vhost-user-backend/control/device_control.h"

namespace outrigger::control::v1 {
class SetAllowedSenders;
class SetNetworkLimits;
class StartCapture;
}  // namespace outrigger::control::v1

namespace outrigger::net {

class NetDevice;
struct CaptureCounters;
struct PolicyValues;

/// Thread-bound: control thread.
class NetControl final : public control::DeviceControl {
  public:
    explicit NetControl(NetDevice& device) : device_(device) {}

    void attach(EventLoop& control_loop, std::span<Worker* const> workers) override;
    void describe(control::v1::Device& out) const override;
    void handle(const control::v1::Request& request,
                std::vector<UniqueFd> fds,
                Answer answer) override;

  private:
    void start_capture(const control::v1::StartCapture& wish, UniqueFd file, Answer answer);
    void on_capture_end(const CaptureCounters& counters);
    void set_limits(const control::v1::SetNetworkLimits& wish, Answer answer);
    void set_senders(const control::v1::SetAllowedSenders& wish, Answer answer);
    void change_policy(PolicyValues values, Answer answer);

    NetDevice& device_;
    EventLoop* control_loop_ = nullptr;
    Worker* worker_ = nullptr;
    bool capture_begins_ = false;  // on the worker, and nothing else can be asked of it meanwhile
    Answer stopped_;  // to whoever has asked for the end of a capture, when it is there
};

}  // namespace outrigger::net
