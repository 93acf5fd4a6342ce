// SPDX-License-Identifier: Apache-2.0
/// attach: this terminal at the host's side of a console's port, which the daemon tells.
#pragma once

#include "vhost-user-backend/base/result.h"

#include "tools/outriggerctl/ctl_options.h"

namespace outrigger::ctl {

/// Until somebody ends it. While the process has one thread.
[[nodiscard]] Result<void> attach(const CtlPlan& plan);

}  // namespace outrigger::ctl
