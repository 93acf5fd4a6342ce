// SPDX-License-Identifier: Apache-2.0
/// What the control socket may ask of the machine.
#pragma once

#include <functional>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

namespace control::v1 {
class Costs;
class Machine;
}  // namespace control::v1

/// Thread-bound: the loop's.
class MachineOperator {
  public:
    using Done = std::move_only_function<void(Result<void>)>;

    virtual ~MachineOperator() = default;

    virtual void describe(control::v1::Machine& out) const = 0;
    virtual void describe(control::v1::Costs& out) const = 0;
    /// `done` runs once, at once or later. Pausing a paused machine is no error.
    virtual void pause(Done done) = 0;
    virtual void resume(Done done) = 0;
    /// The guest is told, and may do as it likes. Error: the machine is paused.
    [[nodiscard]] virtual Result<void> press_power_button() = 0;
    /// The machine ends behind the answer.
    virtual void quit() = 0;
};

}  // namespace outrigger::vmm
