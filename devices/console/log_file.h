// SPDX-License-Identifier: Apache-2.0
/// A file to which the guest's output is appended: a port's log, or its whole host's side.
///
/// Only its owner may read it, because consoles tell secrets. It is opened anew when an operator
/// has moved it away (SIGHUP), and moved away by ourselves when it has grown too large: FILE
/// becomes FILE.1, FILE.1 becomes FILE.2, and so on.
///
/// Where memory outlives this process, the next one goes on behind the last byte that is in the
/// file: how large that was at which position of the stream is noted before each write, and what it
/// has grown by since was written. (Who cuts the file short meanwhile, or writes to it, is not
/// seen.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "vhost-user-backend/base/kept_record.h"
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
  private:
    /// What the file had when the stream was at a position.
    struct Place {
        uint64_t position = 0;
        uint64_t bytes = 0;
        uint64_t device = 0;
        uint64_t inode = 0;
    };

  public:
    static constexpr size_t kKeptBytes = KeptValue<Place>::kBytes;

    /// `kept` is of kKeptBytes, zeroed or as another process left it; empty: there is none.
    [[nodiscard]] static Result<LogFile> open(LogFileOptions options,
                                              std::span<std::byte> kept = {});

    /// Of the stream, behind what an earlier process has written to it; nothing: none has.
    [[nodiscard]] std::optional<uint64_t> kept_position() const { return kept_position_; }

    /// Appends all of it, which is at `position` of the stream, and rotates where it is due. May
    /// wait for the disk. An error: the rest was not written; the next write tries again.
    [[nodiscard]] Result<void> append(uint64_t position, std::span<const std::byte> bytes);

    /// Opens the file of that name, which may be another one by now. On an error the old one stays.
    [[nodiscard]] Result<void> reopen();

    [[nodiscard]] const std::string& path() const { return options_.path; }

  private:
    LogFile(LogFileOptions options, UniqueFd directory)
        : options_(std::move(options)), directory_(std::move(directory)) {}

    [[nodiscard]] Result<void> rotate();
    void note(uint64_t position);

    LogFileOptions options_;
    UniqueFd directory_;
    UniqueFd file_;
    uint64_t bytes_ = 0;
    Place place_{};  // device and inode of the file that is open
    std::optional<KeptValue<Place>> kept_{};
    std::optional<uint64_t> kept_position_{};
    std::unique_ptr<LogLimiter> limiter_ = std::make_unique<LogLimiter>();
};

}  // namespace outrigger::console
