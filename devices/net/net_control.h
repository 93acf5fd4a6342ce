// SPDX-License-Identifier: Apache-2.0
/// What an operator may ask of a network device: what has passed, and what was dropped and why;
/// a capture; other limits and senders.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/control/device_control.h"

namespace outrigger::control::v1 {
class SetAllowedSenders;
class SetNetworkLimits;
class StartCapture;
}  // namespace outrigger::control::v1

namespace outrigger::net {

class Capture;
class NetDevice;
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
    /// What passes at one place, and who waits for what of its capture.
    struct Captured {
        std::string_view lack;       // what is said where nothing can be captured
        Capture* capture = nullptr;  // null: nothing can
        std::string name{};          // of the place, for the file
        bool begins = false;         // on the worker, and nothing else can be asked of it meanwhile
        Answer stopped{};            // to whoever has asked for the end, when it is there
    };

    void start_capture(Captured& captured,
                       const control::v1::StartCapture& wish,
                       std::vector<UniqueFd> fds,
                       Answer answer);
    void stop_capture(Captured& captured, Answer answer);
    void set_limits(const control::v1::SetNetworkLimits& wish, Answer answer);
    void set_senders(const control::v1::SetAllowedSenders& wish, Answer answer);
    void change_policy(PolicyValues values, Answer answer);

    NetDevice& device_;
    EventLoop* control_loop_ = nullptr;
    Worker* worker_ = nullptr;
    Captured port_captured_{.lack = "nothing can be captured"};
    Captured uplink_captured_{.lack =
                                  "the device is not its switch's way to the host: name the "
                                  "one that has --switch-tap"};
};

}  // namespace outrigger::net
