// SPDX-License-Identifier: Apache-2.0
/// The system calls that neither a keeper nor any program that it starts has a use for.
#pragma once

#include <span>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Binds this process and what it starts for good: such a call fails with EPERM. A filter outlives
/// exec(), so that of a keeper cannot be tighter than what its programs need to open their images
/// and to confine themselves, and what libraries do on the way is not ours to list: hence a list of
/// what is forbidden, where threads that serve have one of what is allowed. `needed`: what the
/// program calls all the same, before it confines itself. Needs no_new_privs.
[[nodiscard]] Result<void> enter_keeper_filter(std::span<const std::string_view> needed);

}  // namespace outrigger
