// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "tools/outriggerctl/change_devices.h"

namespace outrigger::ctl {

int change_devices(const CtlPlan& /*plan*/) {
    std::fputs("outriggerctl: this build's daemons have no keeper\n", stderr);
    return 1;
}

}  // namespace outrigger::ctl
