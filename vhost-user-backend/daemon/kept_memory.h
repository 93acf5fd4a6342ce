// SPDX-License-Identifier: Apache-2.0
/// What of a device is there again when its process was killed and another one goes on with its
/// sessions: memory for what guests have been told and what is nowhere else yet, and descriptors.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Descriptors that come and go while a device runs. Thread-bound: one at a time, whichever.
class KeptDescriptors {
  public:
    virtual ~KeptDescriptors() = default;

    /// `fd` is borrowed; the keeper has the open file from now on. `name` is of letters, digits and
    /// '-', and not in use. False: the keeper takes nothing more.
    [[nodiscard]] virtual bool keep(std::string_view name, int fd) = 0;

    /// Closes what the keeper has under that name, a moment later.
    virtual void forget(std::string_view name) = 0;
};

/// Thread-bound: the main thread, while devices are opened.
class KeptMemory {
  public:
    /// A descriptor of `bytes` of shared memory, which the keeper has as well. What another process
    /// of the daemon left under that name, where it is of that size: it may say anything. Else it
    /// is zeroed. `name` is of letters, and one of the device's own.
    [[nodiscard]] virtual Result<UniqueFd> keep(std::string_view name, size_t bytes) = 0;

    /// For as long as the device is there.
    [[nodiscard]] virtual std::unique_ptr<KeptDescriptors> descriptors() = 0;

    /// What another process of the daemon gave its descriptors() under that name; once. Invalid:
    /// nothing. What nobody takes, the keeper closes before the device serves.
    [[nodiscard]] virtual UniqueFd take(std::string_view name) = 0;

    /// Another program serves again if this one says that it cannot go on: so it should, where it
    /// does not understand what it finds.
    [[nodiscard]] virtual bool can_hand_back() const = 0;

  protected:
    ~KeptMemory() = default;
};

}  // namespace outrigger
