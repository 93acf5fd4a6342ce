// SPDX-License-Identifier: Apache-2.0
// Systems without Linux's means: the functions are there and do nothing.
#include "vhost-user-backend/daemon/sandbox.h"

namespace outrigger {

Result<DroppedAccess> drop_access(SandboxMode mode,
                                  std::span<const int> /*removable_below*/,
                                  const SandboxExtras& /*extras*/,
                                  Result<void> (* /*isolate*/)()) {
    if (mode == SandboxMode::kStrict) {
        return failure(Error{.message = "--sandbox=strict: this system has no sandbox for us"});
    }
    return DroppedAccess{};
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
