// SPDX-License-Identifier: Apache-2.0
/// The console whose state is kept, and that state as this version writes it. Not in portable
/// builds, which have no console.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "devices/console/console_device.h"

namespace outrigger::testing {

[[nodiscard]] std::unique_ptr<console::ConsoleDevice> sample_console();

/// By their names below tests/states: "v1/console.state".
[[nodiscard]] std::map<std::string, std::string> sample_console_states();

}  // namespace outrigger::testing
