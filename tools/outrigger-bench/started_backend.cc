// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/started_backend.h"

#include <chrono>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/core.h>

namespace outrigger::bench {
namespace {

constexpr std::chrono::milliseconds kTimeToEnd{3000};
constexpr std::chrono::milliseconds kLook{10};

/// Behind fork(): system calls only.
[[noreturn]] void become(const char* command, const cpu_set_t* cpus, pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    // What it prints is not ours: standard output is for the figures.
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    const bool placed = cpus == nullptr || ::sched_setaffinity(0, sizeof *cpus, cpus) == 0;
    if (placed && ::getppid() == parent) {
        ::execl("/bin/sh", "sh", "-c", command, nullptr);
    }
    ::_exit(127);
}

}  // namespace

Result<StartedBackend> StartedBackend::start(const std::string& command,
                                             const std::optional<cpu_set_t>& cpus) {
    const std::string replaced = "exec " + command;
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) {
        return failure(error_from_errno("cannot start '" + command + "'"));
    }
    if (pid == 0) {
        become(replaced.c_str(), cpus ? &*cpus : nullptr, parent);
    }
    return StartedBackend(pid);
}

StartedBackend::StartedBackend(StartedBackend&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), ended_(std::move(other.ended_)) {}

StartedBackend::~StartedBackend() {
    if (pid_ < 0 || ended()) {
        return;
    }
    ::kill(pid_, SIGTERM);
    const auto give_up = std::chrono::steady_clock::now() + kTimeToEnd;
    while (!ended()) {
        if (std::chrono::steady_clock::now() >= give_up) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
            return;
        }
        std::this_thread::sleep_for(kLook);
    }
}

std::optional<std::string> StartedBackend::ended() {
    int status = 0;
    if (!ended_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
        ended_ = WIFSIGNALED(status)
                     ? fmt::format("it was killed by signal {}", WTERMSIG(status))
                     : fmt::format("it ended with exit status {}", WEXITSTATUS(status));
    }
    return ended_;
}

}  // namespace outrigger::bench
