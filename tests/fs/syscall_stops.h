// SPDX-License-Identifier: Apache-2.0
/// Kills a process between two of its system calls: the n-th at which any of its threads stops,
/// before it or behind it.
#pragma once

#include <concepts>
#include <cstddef>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace outrigger::testing {

/// Traces all threads that the process has now. Its owner, on one thread, does nothing else with
/// the process; kill() must come.
class SyscallStops final {
  public:
    /// Nothing when this process may not trace that one. Behind it the process waits for work.
    [[nodiscard]] static std::optional<SyscallStops> attach(pid_t pid);

    SyscallStops(SyscallStops&& other) noexcept
        : pid_(std::exchange(other.pid_, 0)), threads_(std::move(other.threads_)) {}

    SyscallStops& operator=(SyscallStops&&) = delete;
    SyscallStops(const SyscallStops&) = delete;
    SyscallStops& operator=(const SyscallStops&) = delete;

    ~SyscallStops() { kill(); }

    /// Lets it run up to its stop number `stops`, where that thread stays; false when `is_over` was
    /// true before, at a moment when nothing had stopped.
    template <std::predicate Condition>
    bool run(size_t stops, Condition is_over) {
        for (size_t count = 0;;) {
            const Turn turn = look();
            if (turn == Turn::kCall && ++count == stops) {
                return true;
            }
            if (turn == Turn::kQuiet && is_over()) {
                return false;
            }
            go_on();
        }
    }

    /// And waits until nothing is left of it but what its parent waits for.
    void kill();

  private:
    enum class Turn { kQuiet, kCall, kOther };

    explicit SyscallStops(pid_t pid) : pid_(pid) {}

    /// Whether a thread has stopped, which then is stopped_.
    Turn look();
    void go_on();

    pid_t pid_ = 0;  // 0: it was killed
    std::vector<pid_t> threads_;
    pid_t stopped_ = 0;
    int signal_ = 0;  // that stopped_ is to get
};

}  // namespace outrigger::testing
