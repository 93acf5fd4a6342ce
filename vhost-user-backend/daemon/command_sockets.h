// SPDX-License-Identifier: Apache-2.0
/// Which descriptors a command line names that somebody else has opened.
#pragma once

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/command_line.h"

namespace outrigger {

/// Fills in `line.activated` and `line.inherited`, behind everything else; `process` are the
/// options outside of devices. An error: a number is named twice.
[[nodiscard]] Result<void> name_descriptors(const OptionValues& process,
                                            const DeviceProgram& program,
                                            CommandLine& line);

/// What a service manager passes is taken once, by name or by number; and it is there, but for who
/// only looks at the options, because it is passed to the program itself.
[[nodiscard]] Result<void> check_activated(const CommandLine& line);

}  // namespace outrigger
