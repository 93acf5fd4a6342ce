// SPDX-License-Identifier: Apache-2.0
/// SIGTERM and SIGINT: a clean end, and an end in any case.
#pragma once

#include <chrono>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// How long the clean end may take before the process goes without it.
inline constexpr auto kTerminationLimit = std::chrono::milliseconds(800);

class Termination final {
  public:
    /// Installs the handlers for the rest of the process's life; call it once. SIGPIPE and
    /// SIGXFSZ are ignored from then on: a peer that is gone, and a file that may not be that long
    /// (RLIMIT_FSIZE), are errors of the write.
    [[nodiscard]] static Result<void> install();

    /// Readable from the first SIGTERM or SIGINT on. Borrowed.
    [[nodiscard]] static int request_fd();

    /// The signal that came, 0 for none.
    [[nodiscard]] static int requested();
};

}  // namespace outrigger
