// SPDX-License-Identifier: Apache-2.0
/// What of a device is there again when its process was killed and another one goes on: memory,
/// and descriptors of what it has open.
#pragma once

#include <cstddef>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Lives as long as the device. Names are of letters, digits and dots, and the device's own.
class DeviceKeeper {
  public:
    virtual ~DeviceKeeper() = default;

    /// As KeptMemory::keep().
    [[nodiscard]] virtual Result<UniqueFd> keep(std::string_view name, size_t bytes) = 0;

    /// A descriptor of the open file that another process of the daemon kept under that name;
    /// invalid when there is none. It is kept on. Main thread, while the device is created.
    [[nodiscard]] virtual UniqueFd find(std::string_view name) = 0;

    /// Keeps another descriptor of the same open file under a name that is not in use. False: it
    /// cannot be kept. A keeper that has no room for it tells nobody. Any thread.
    [[nodiscard]] virtual bool keep_open(std::string_view name, int fd) = 0;

    /// The keeper closes what it has under that name. Any thread.
    virtual void forget(std::string_view name) = 0;
};

}  // namespace outrigger
