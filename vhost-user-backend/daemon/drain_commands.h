// SPDX-License-Identifier: Apache-2.0
/// The control socket's Drain and Resume, which are for any device, or for all of a program.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/daemon/program_description.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// Tells, before it shows, that a device (by its number) begins no more requests, or begins some
/// again: the next process is to go on so. False: it cannot be told any more.
using TellDrain = std::function<bool(size_t device, bool drained)>;

/// Thread-bound: control thread.
class DrainCommands final {
  public:
    using Answer = control::DeviceControl::Answer;

    struct Environment {
        EventLoop& loop;
        const ProgramDescription& description;
        TellDrain tell_drain;
    };

    explicit DrainCommands(Environment environment) : environment_(std::move(environment)) {}

    /// Of the device that `request` names, which is there, or of all. Answered when none has
    /// requests in flight any more, or when its time is over.
    void drain(const control::v1::Request& request, Answer answer);

    /// Likewise; the devices have their own to resume, too.
    void resume(const control::v1::Request& request, Answer answer);

  private:
    using Numbers = std::vector<size_t>;

    struct Wait;

    [[nodiscard]] Numbers meant_by(const std::string& name) const;
    void limit(const std::shared_ptr<Wait>& wait, uint32_t seconds, Numbers devices);

    Environment environment_;
};

}  // namespace outrigger
