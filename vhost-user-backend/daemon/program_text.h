// SPDX-License-Identifier: Apache-2.0
/// What a daemon prints about itself, all from the option tables.
#pragma once

#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/device_program.h"

namespace outrigger {

/// --help.
[[nodiscard]] std::string help_text(const DeviceProgram& program);

/// --version: one line.
[[nodiscard]] std::string version_text(const DeviceProgram& program);

/// --print-capabilities: one line of JSON. QEMU "Backend program conventions".
[[nodiscard]] std::string capabilities_text(const DeviceProgram& program);

/// The man page: `page` is its hand-written part in roff, in which the lines @HEAD@ (title, name
/// and synopsis), @OPTIONS@ and @TAIL@ (signals, exit status) are replaced. An error names a line
/// that is missing.
[[nodiscard]] Result<std::string> man_page_text(const DeviceProgram& program,
                                                std::string_view page);

}  // namespace outrigger
