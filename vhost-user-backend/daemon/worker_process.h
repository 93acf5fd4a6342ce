// SPDX-License-Identifier: Apache-2.0
/// What the keeper does to the processes that it starts.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::worker_process {

/// What a child of the keeper becomes. Descriptors are borrowed.
struct Program {
    pid_t keeper = 0;
    std::string_view name;                   ///< for log lines
    int program = -1;                        ///< the binary
    int config = -1;                         ///< for $OUTRIGGER_CONFIG; -1: there is none
    int channel = -1;                        ///< to the keeper
    std::span<const std::string> arguments;  ///< with its name
    sigset_t signals{};                      ///< blocked
    rlimit files{};
};

/// A binary, whatever will lie at its path later.
[[nodiscard]] Result<UniqueFd> open_program(const std::string& path);

/// Where our own binary lay; empty: nobody says.
[[nodiscard]] std::string own_path();

/// Raises the limit of our descriptors as far as it goes; the one of before.
[[nodiscard]] rlimit take_all_descriptors();

/// Behind fork(), in the child.
[[noreturn]] void become(const Program& program);

/// Blocks what the keeper is told by signals, and gives the descriptor from which they come, with
/// the mask of before; not valid, with errno: it cannot. Is SIGHUP a wish of its own here?
[[nodiscard]] UniqueFd take_signals(bool hangup_is_wish, sigset_t& before);

/// A process that has ended is -1 here, which would mean every process to kill().
inline void signal(pid_t pid, int signal_number) {
    if (pid > 0) {
        ::kill(pid, signal_number);
    }
}

/// The wait status of a child that has ended, without waiting.
[[nodiscard]] inline std::optional<int> take_end(pid_t pid) {
    int status = 0;
    return pid > 0 && ::waitpid(pid, &status, WNOHANG) == pid ? std::optional(status)
                                                              : std::nullopt;
}

/// Kills a child and waits for its end, behind which `pid` is -1; false: it had ended before.
bool end(pid_t& pid);

/// For a log line, behind the name of the process.
[[nodiscard]] inline std::string describe_end(int status) {
    return WIFSIGNALED(status) ? "was killed by signal " + std::to_string(WTERMSIG(status))
                               : "ended with exit status " + std::to_string(WEXITSTATUS(status));
}

/// Ends this process as that one has ended, as if there had been no keeper; the exit status, where
/// it ended by itself.
[[nodiscard]] int end_alike(int status);

}  // namespace outrigger::worker_process
