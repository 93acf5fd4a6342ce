// SPDX-License-Identifier: Apache-2.0
/// A back end that is started for a run, and ended with it.
#pragma once

#include <optional>
#include <string>

#include <sched.h>
#include <sys/types.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger::bench {

class StartedBackend final {
  public:
    /// Runs `command` in a shell, which it replaces: the process is the back end itself, unless
    /// the command is more than one. `cpus`: where alone it may run; nullopt: where this thread
    /// may.
    [[nodiscard]] static Result<StartedBackend> start(const std::string& command,
                                                      const std::optional<cpu_set_t>& cpus);

    StartedBackend(StartedBackend&& other) noexcept;
    StartedBackend& operator=(StartedBackend&&) = delete;
    StartedBackend(const StartedBackend&) = delete;
    StartedBackend& operator=(const StartedBackend&) = delete;

    /// Asks it to end, and after a while ends it.
    ~StartedBackend();

    [[nodiscard]] pid_t pid() const { return pid_; }

    /// How it ended, in words; nullopt while it runs.
    [[nodiscard]] std::optional<std::string> ended();

  private:
    explicit StartedBackend(pid_t pid) : pid_(pid) {}

    pid_t pid_;  // -1: moved from
    std::optional<std::string> ended_;
};

}  // namespace outrigger::bench
