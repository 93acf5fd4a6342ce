// SPDX-License-Identifier: Apache-2.0
/// What a device lets an operator ask while it runs. The daemon shell owns the socket, its clients
/// and what concerns the whole program; a device describes itself and carries out its commands.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {
class EventLoop;
class Worker;
}  // namespace outrigger

namespace outrigger::control {

namespace v1 {
class Device;
class Request;
}  // namespace v1

/// Why a command was not carried out.
enum class Refusal : uint8_t {
    kUnknown,  ///< not a command of this device
    kInvalid,  ///< an argument that cannot be, or not in this state
    kFailed,   ///< the host refused
};

struct CommandError {
    Refusal refusal = Refusal::kFailed;
    std::string message;  ///< one sentence without a full stop
};

/// Done; the text says what else there is to know, and is mostly empty.
using CommandResult = Result<std::string, CommandError>;

/// Tells, before it shows, that the device is about to be other than its command line says: a guest
/// or an operator counts on it, so no process that is started with that line could go on with it.
/// With false: that it is again what the line says. (Limits are only slower or faster, and a size
/// is that of the image.) Returns false when the change cannot be made, because another process is
/// about to take over and would not know of it.
using TellDeparture = std::function<bool(bool departed)>;

/// Thread-bound: control thread.
class DeviceControl {
  public:
    using Answer = std::move_only_function<void(CommandResult)>;

    virtual ~DeviceControl() = default;

    /// The loop of the control thread, and the workers that serve the device. Both live as long as
    /// the device takes commands, and longer than it is asked for anything. Once, before all else.
    virtual void attach(EventLoop& control_loop, std::span<Worker* const> workers) = 0;

    /// Once, before the first command. For devices that have commands which depart.
    virtual void tell_departures_to(TellDeparture /*tell_departure*/) {}

    /// Fills in `details`; what every device has is there already.
    virtual void describe(v1::Device& out) const = 0;

    /// Begins the command that `request` has, with the descriptors that came along. Does not wait:
    /// `answer` is called once, at once or later, on the control thread. Requests that come
    /// meanwhile wait for their turn, or are answered before, as the device likes.
    virtual void handle(const v1::Request& request, std::vector<UniqueFd> fds, Answer answer) = 0;
};

}  // namespace outrigger::control
