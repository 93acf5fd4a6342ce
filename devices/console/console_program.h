// SPDX-License-Identifier: Apache-2.0
/// outrigger-console: its options, and the device made of them.
#pragma once

#include <span>

#include "vhost-user-backend/daemon/device_program.h"

namespace outrigger::console {

[[nodiscard]] const DeviceProgram& console_program();

/// Did somebody ask for --attach? Then it is a viewer, and no daemon.
[[nodiscard]] bool asks_to_attach(std::span<const char* const> arguments);

/// main() of it: the exit status.
[[nodiscard]] int run_attach(std::span<const char* const> arguments);

}  // namespace outrigger::console
