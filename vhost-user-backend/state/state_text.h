// SPDX-License-Identifier: Apache-2.0
/// A saved state for people.
#pragma once

#include <string>

#include "vhost-user-backend/state/device_state.h"

namespace outrigger {

/// Lines that end in a newline each. Of each section's content the first 256 bytes.
[[nodiscard]] std::string state_text(const DeviceState& state);

}  // namespace outrigger
