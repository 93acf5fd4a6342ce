// SPDX-License-Identifier: Apache-2.0
/// A file to which the guest's output is appended: a port's log, or its whole host's side.
///
/// Only its owner may read it, because consoles tell secrets. It is opened anew when an operator
/// has moved it away (SIGHUP), and moved away by ourselves when it has grown too large: FILE
/// becomes FILE.1, FILE.1 becomes FILE.2, and so on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::console {

struct LogFileOptions {
    std::string path;
    uint64_t bytes_max = 0;  ///< rotate before it has more; 0: never
    uint32_t files = 1;      ///< rotated ones that are kept
};

/// Thread-bound: host thread, after the control thread opened it.
class LogFile final {
  public:
    [[nodiscard]] static Result<LogFile> open(LogFileOptions options);

    /// Appends all of it, and rotates where it is due. May wait for the disk. An error: the rest
    /// was not written; the next write tries again.
    [[nodiscard]] Result<void> append(std::span<const std::byte> bytes);

    /// Opens the file of that name, which may be another one by now. On an error the old one stays.
    [[nodiscard]] Result<void> reopen();

    [[nodiscard]] const std::string& path() const { return options_.path; }

  private:
    LogFile(LogFileOptions options, UniqueFd directory)
        : options_(std::move(options)), directory_(std::move(directory)) {}

    [[nodiscard]] Result<void> rotate();

    LogFileOptions options_;
    UniqueFd directory_;
    UniqueFd file_;
    uint64_t bytes_ = 0;
    std::unique_ptr<LogLimiter> limiter_ = std::make_unique<LogLimiter>();
};

}  // namespace outrigger::console
