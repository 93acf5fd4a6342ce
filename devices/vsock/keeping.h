// SPDX-License-Identifier: Apache-2.0
/// Opens what a device's engine stands on: its listening sockets, and what it shares with the
/// process that goes on when this one is killed.
#pragma once

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/kept_memory.h"

#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {

/// `memory` is null where there is no keeper. An error is one of run time.
[[nodiscard]] Result<Keeping> open_keeping(const VsockOptions& options, KeptMemory* memory);

/// Those of the process before, or new ones.
[[nodiscard]] Result<HostListeners> open_listeners(const VsockOptions& options,
                                                   KeptMemory* memory,
                                                   KeptDescriptors* descriptors);

}  // namespace outrigger::vsock
