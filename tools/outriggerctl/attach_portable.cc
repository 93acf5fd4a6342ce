// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/attach.h"

namespace outrigger::ctl {

Result<void> attach(const CtlPlan& /*plan*/) {
    return failure(Error{.message = "this build serves no consoles, and so attaches to none"});
}

}  // namespace outrigger::ctl
