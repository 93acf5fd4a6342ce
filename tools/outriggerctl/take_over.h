// SPDX-License-Identifier: Apache-2.0
/// outriggerctl take-over: another binary for a daemon that serves.
#pragma once

#include <chrono>
#include <optional>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/control/take_over.h"

#include "tools/outriggerctl/ctl_options.h"

namespace outrigger::ctl {

/// Prints progress to stderr (not as JSON) and the outcome to stdout. The exit status: 0 taken, 1
/// nothing has changed, or not known, 3 gone back.
[[nodiscard]] int take_over(const CtlPlan& plan);

/// Nothing: the keeper was asked, and has not answered.
using MaybeOutcome = std::optional<control::TakeOverOutcome>;

/// The same, asked of `keeper`, of no binary of ours.
[[nodiscard]] MaybeOutcome take_over(const CtlPlan& plan,
                                     pid_t keeper,
                                     control::TakeOverRequest request,
                                     std::chrono::milliseconds patience);
[[nodiscard]] int exit_status_of(MaybeOutcome how);

[[nodiscard]] Result<control::v1::Program> describe_daemon(const CtlPlan& plan);

/// An error: the daemon has none.
[[nodiscard]] Result<pid_t> keeper_of(const control::v1::Program& program);

}  // namespace outrigger::ctl
