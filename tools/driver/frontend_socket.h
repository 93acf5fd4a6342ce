// SPDX-License-Identifier: Apache-2.0
/// The socket under a front end: whole byte strings with descriptors, each call within a deadline.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::driver {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

[[nodiscard]] inline Deadline after(std::chrono::milliseconds time) {
    return Clock::now() + time;
}

/// poll(2)'s timeout until then: milliseconds rounded up, at least 0.
[[nodiscard]] int milliseconds_until(Deadline deadline);

enum class SendStatus : uint8_t { kSent, kTimeout, kClosed };

/// Connects to the Unix socket at `path`; as long as nobody listens there, or too many wait to be
/// accepted, tries again until the deadline.
[[nodiscard]] Result<UniqueFd> connect_until(const std::string& path, Deadline deadline);

/// Sends all bytes, with up to 253 `fds` (the system's limit) on the first. Never raises SIGPIPE.
[[nodiscard]] SendStatus send_until(int socket,
                                    std::span<const std::byte> bytes,
                                    std::span<const int> fds,
                                    Deadline deadline);

/// True when `fd` is readable or at its end before the deadline.
[[nodiscard]] bool wait_readable(int fd, Deadline deadline);

}  // namespace outrigger::driver
