// SPDX-License-Identifier: Apache-2.0
/// A terminal that passes every key on, and is what it was before again however we end: normally,
/// by a signal that nobody catches, or by SIGKILL, of all our process group too. A process of its
/// own waits for that end.
#pragma once

#include <cstdint>
#include <utility>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

class RawTerminal final {
  public:
    enum class Output : uint8_t {
        kRaw,
        kWithLineEnds,  ///< what is printed beside the guest's output begins at the left, too
    };

    /// Sets the terminal `fd` (borrowed) raw. Call it while the process has one thread.
    [[nodiscard]] static Result<RawTerminal> enter(int fd, Output output = Output::kRaw);

    RawTerminal(RawTerminal&& other) noexcept
        : end_(std::move(other.end_)), guard_(std::exchange(other.guard_, -1)) {}

    RawTerminal& operator=(RawTerminal&& other) = delete;
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    /// The terminal is as before when this returns.
    ~RawTerminal();

  private:
    RawTerminal(UniqueFd end, pid_t guard) : end_(std::move(end)), guard_(guard) {}

    UniqueFd end_;  // of a pipe: the guard sees it close
    pid_t guard_;   // -1: moved from
};

}  // namespace outrigger
