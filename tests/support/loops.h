// SPDX-License-Identifier: Apache-2.0
/// The event loops that this build has, for tests that run on each.
#pragma once

#include <vector>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

[[nodiscard]] inline std::vector<LoopKind> loops_of_this_build() {
    return kPortableBuild ? std::vector{LoopKind::kAsio}
                          : std::vector{LoopKind::kUring, LoopKind::kAsio};
}

}  // namespace outrigger
