// SPDX-License-Identifier: Apache-2.0
/// What of a device is there again when its process was killed and another one goes on with its
/// sessions: memory for what guests have been told and what is nowhere else yet, and descriptors of
/// what it has open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// What came of an attempt that does not wait.
enum class Kept : uint8_t {
    kYes,
    kNotNow,  ///< the keeper has not read what was said before: try again in a moment
    kNever,
};

/// Lives as long as the device. Names are of letters, digits, dots and '-', and the device's own.
class DeviceKeeper {
  public:
    virtual ~DeviceKeeper() = default;

    // --- Main thread, while the device is created ------------------------------------------------

    /// Is this not the first process of the daemon? Then guests have the device, and what it stands
    /// on may come back: it is waited for.
    [[nodiscard]] virtual bool goes_on() const = 0;

    /// Another program serves again if this one says that it cannot go on: so it should, where it
    /// does not understand what it finds.
    [[nodiscard]] virtual bool can_hand_back() const = 0;

    /// A descriptor of `bytes` of shared memory, which the keeper has as well. What another process
    /// of the daemon left under that name, where it is of that size: it may say anything. Else it
    /// is zeroed.
    [[nodiscard]] virtual Result<UniqueFd> keep(std::string_view name, size_t bytes) = 0;

    /// The open file that another process of the daemon kept under that name, and that is kept on;
    /// once. Invalid: there is none. What nobody takes, the keeper closes before the device serves.
    [[nodiscard]] virtual UniqueFd take(std::string_view name) = 0;

    // --- Any thread ------------------------------------------------------------------------------

    /// The keeper has the open file as well, from now on. `fd` is borrowed, and of an open file
    /// that nobody keeps yet; `name` is not in use. False: it cannot be kept. A keeper that has no
    /// room for it tells nobody.
    [[nodiscard]] virtual bool keep_open(std::string_view name, int fd) = 0;

    /// Closes what the keeper has under that name, a moment later.
    virtual void forget(std::string_view name) = 0;

    // Keepers that do not read hold the above up, for a second at most. These do not wait, for
    // threads that guests depend on. (Of a keeper that never holds anybody up they are the same.)

    /// keep_open().
    [[nodiscard]] virtual Kept try_keep_open(std::string_view name, int fd) {
        return keep_open(name, fd) ? Kept::kYes : Kept::kNever;
    }

    /// forget(). False: not now, try again in a moment.
    [[nodiscard]] virtual bool try_forget(std::string_view name) {
        forget(name);
        return true;
    }
};

}  // namespace outrigger
