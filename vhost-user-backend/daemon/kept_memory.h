// SPDX-License-Identifier: Apache-2.0
/// Memory of a device that is there again when its process was killed and another one goes on with
/// its sessions: for what guests have been told, and what is nowhere else yet.
#pragma once

#include <cstddef>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Thread-bound: the main thread, while devices are opened.
class KeptMemory {
  public:
    /// A descriptor of `bytes` of shared memory, which the keeper has as well. What another process
    /// of the daemon left under that name, where it is of that size: it may say anything. Else it
    /// is zeroed. `name` is of letters, and one of the device's own.
    [[nodiscard]] virtual Result<UniqueFd> keep(std::string_view name, size_t bytes) = 0;

  protected:
    ~KeptMemory() = default;
};

}  // namespace outrigger
