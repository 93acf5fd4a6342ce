// SPDX-License-Identifier: Apache-2.0
/// The command line of outrigger-blk: its options as a table, and the device that they ask for.
#pragma once

#include "vhost-user-backend/daemon/device_program.h"

namespace outrigger::blk {

[[nodiscard]] const DeviceProgram& blk_program();

}  // namespace outrigger::blk
