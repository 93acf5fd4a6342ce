// SPDX-License-Identifier: Apache-2.0
/// What the sandbox must let a disk do whose image is an NBD server's.
#pragma once

#include <string_view>

#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger::blk {

/// For a URI that was checked: its connections, which are made again when they are lost; nothing
/// else by name, and no other TCP port.
[[nodiscard]] SandboxExtras nbd_sandbox_extras(std::string_view uri);

}  // namespace outrigger::blk
