// SPDX-License-Identifier: Apache-2.0
// Systems without Linux's means: the functions are there and do nothing.
#include "vhost-user-backend/daemon/sandbox.h"

namespace outrigger {

Result<void> drop_access(std::span<const int> /*removable_below*/,
                         const SandboxExtras& /*extras*/,
                         Result<void> (* /*isolate*/)()) {
    return {};
}

std::span<const SystemCallRule> userfault_system_calls() {
    return {};
}

Result<void> enter_sandbox(SandboxMode /*mode*/,
                           const SandboxNeeds& /*needs*/,
                           std::span<Worker* const> /*workers*/) {
    return {};
}

}  // namespace outrigger
