// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "tools/outriggerctl/take_over.h"

namespace outrigger::ctl {

int take_over(const CtlPlan&) {
    std::fputs("outriggerctl: this build's daemons have no keeper\n", stderr);
    return 1;
}

}  // namespace outrigger::ctl
