// SPDX-License-Identifier: Apache-2.0
/// Opens what a device's engine stands on: its listening sockets, and what it shares with the
/// process that goes on when this one is killed.
#pragma once

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {

/// `keeper` is null where there is none. An error is one of run time.
[[nodiscard]] Result<Keeping> open_keeping(const VsockOptions& options, DeviceKeeper* keeper);

/// Those of the process before, or new ones.
[[nodiscard]] Result<HostListeners> open_listeners(const VsockOptions& options,
                                                   DeviceKeeper* keeper);

}  // namespace outrigger::vsock
