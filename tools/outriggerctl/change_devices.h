// SPDX-License-Identifier: Apache-2.0
/// add and remove: the file of a daemon's --config, and its keeper's taking over with it.
#pragma once

#include "tools/outriggerctl/ctl_options.h"

namespace outrigger::ctl {

/// Prints as take_over() does, with the same exit status. Where it is not 0, the file is as before.
[[nodiscard]] int change_devices(const CtlPlan& plan);

}  // namespace outrigger::ctl
