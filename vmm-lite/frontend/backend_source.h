// SPDX-License-Identifier: Apache-2.0
/// Where connections to a back end come from: a socket that a daemon listens on, a descriptor that
/// was passed, or a daemon that is started for it.
#pragma once

#include <memory>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's. No call waits for the back end.
class BackendSource {
  public:
    virtual ~BackendSource() = default;

    /// A new connection. An error may pass: it is tried again.
    [[nodiscard]] virtual Result<UniqueFd> open() = 0;

    /// Can open() succeed once more, now that it has succeeded?
    [[nodiscard]] virtual bool can_reopen() const = 0;

    /// What else is known of why the back end has gone: "its process ended with status 1: no such
    /// file". Empty where nothing is.
    [[nodiscard]] virtual std::string obituary() const = 0;

    /// Will obituary() know more in a moment?
    [[nodiscard]] virtual bool obituary_due() const { return false; }

    /// Ends the back end of the last open(), where it is ours to end: it was given up. Its socket
    /// tells when.
    virtual void end() {}

    /// The back end of the last open() has negotiated.
    virtual void on_serving() {}

    /// For a person: "socket /run/blk.sock".
    [[nodiscard]] virtual std::string describe() const = 0;
};

/// Connects to a Unix socket.
[[nodiscard]] std::unique_ptr<BackendSource> socket_source(std::string path);

/// Gives a connected socket away, once.
[[nodiscard]] std::unique_ptr<BackendSource> passed_source(UniqueFd connected);

}  // namespace outrigger::vmm
