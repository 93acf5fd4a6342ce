// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "vhost-user-backend/daemon/keeper.h"

namespace outrigger {

// The option table of this build does not have it.
int run_keeper(const KeeperSettings&) {
    return 1;
}

int take_over(std::string_view program, pid_t) {
    const std::string line = std::string(program) + ": this build has no keeper\n";
    std::fputs(line.c_str(), stderr);
    return 1;
}

}  // namespace outrigger
