// SPDX-License-Identifier: Apache-2.0
/// The program around the network device: its options, and what its sandbox allows.
#pragma once

#include "vhost-user-backend/daemon/device_program.h"

namespace outrigger::net {

extern const DeviceProgram kNetProgram;

}  // namespace outrigger::net
