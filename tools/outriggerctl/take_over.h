// SPDX-License-Identifier: Apache-2.0
/// outriggerctl take-over: another binary for a daemon that serves.
#pragma once

#include "tools/outriggerctl/ctl_options.h"

namespace outrigger::ctl {

/// Prints progress to stderr (not as JSON) and the outcome to stdout. The exit status: 0 taken, 1
/// nothing has changed, 3 gone back.
[[nodiscard]] int take_over(const CtlPlan& plan);

}  // namespace outrigger::ctl
