// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/syscall_stops.h"

#include <charconv>
#include <chrono>
#include <filesystem>
#include <string>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

namespace outrigger::testing {
namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD

// Looks without a stop after which everything waits.
constexpr int kQuietLooks = 40;

std::vector<pid_t> threads_of(pid_t pid) {
    std::vector<pid_t> threads;
    std::error_code gone;
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", gone)) {
        const std::string name = entry.path().filename();
        pid_t thread = 0;
        std::from_chars(name.data(), name.data() + name.size(), thread);
        threads.push_back(thread);
    }
    return threads;
}

}  // namespace

std::optional<SyscallStops> SyscallStops::attach(pid_t pid) {
    SyscallStops stops(pid);
    for (const pid_t thread : threads_of(pid)) {
        // Threads that the kernel made for io_uring nobody traces, and one may have ended by now.
        if (::ptrace(PTRACE_SEIZE, thread, nullptr, PTRACE_O_TRACESYSGOOD) == 0) {
            stops.threads_.push_back(thread);
            ::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr);
        }
    }
    if (stops.threads_.empty() || stops.threads_.front() != pid) {
        stops.kill();
        return std::nullopt;
    }
    int quiet = 0;
    stops.run(SIZE_MAX, [&quiet] { return ++quiet == kQuietLooks; });
    return stops;
}

SyscallStops::Turn SyscallStops::look() {
    stopped_ = 0;
    for (const pid_t thread : threads_) {
        int status = 0;
        if (::waitpid(thread, &status, __WALL | WNOHANG) != thread || !WIFSTOPPED(status)) {
            continue;
        }
        stopped_ = thread;
        const bool is_signal = WSTOPSIG(status) != kSyscallStop && status >> 16 == 0;
        signal_ = is_signal ? WSTOPSIG(status) : 0;
        return WSTOPSIG(status) == kSyscallStop ? Turn::kCall : Turn::kOther;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    return Turn::kQuiet;
}

void SyscallStops::go_on() {
    if (stopped_ != 0) {
        ::ptrace(PTRACE_SYSCALL, stopped_, nullptr, signal_);
    }
}

void SyscallStops::kill() {
    const pid_t pid = std::exchange(pid_, 0);
    if (pid == 0) {
        return;
    }
    ::kill(pid, SIGKILL);
    // The first thread ends last.
    for (const bool is_first : {false, true}) {
        for (const pid_t thread : threads_) {
            int status = 0;
            while ((thread == pid) == is_first && ::waitpid(thread, &status, __WALL) == thread &&
                   WIFSTOPPED(status)) {
            }
        }
    }
}

}  // namespace outrigger::testing
