// SPDX-License-Identifier: Apache-2.0
/// What the sandbox must let a disk do. The build compiles blk_sandbox.cc, or
/// blk_sandbox_portable.cc with host_calls_portable.cc.
#pragma once

#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger::blk {

[[nodiscard]] SandboxNeeds blk_sandbox_needs();

}  // namespace outrigger::blk
