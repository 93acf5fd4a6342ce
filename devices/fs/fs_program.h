// SPDX-License-Identifier: Apache-2.0
/// The program: options, what they mean, and what the sandbox must allow.
#pragma once

#include "vhost-user-backend/daemon/device_program.h"

namespace outrigger::fs {

[[nodiscard]] const DeviceProgram& fs_program();

}  // namespace outrigger::fs
