// SPDX-License-Identifier: Apache-2.0
/// Descriptors 0 to 2, which a careless parent may have closed.
#pragma once

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Descriptors 0 to 2 exist afterwards, so that no socket takes the number of stderr.
[[nodiscard]] Result<void> ensure_standard_descriptors();

}  // namespace outrigger
