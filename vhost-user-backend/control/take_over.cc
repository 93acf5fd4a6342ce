// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/take_over.h"

#include <algorithm>
#include <cerrno>
#include <string>

#include <signal.h>
#include <time.h>

namespace outrigger::control {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kAnswer = SIGUSR2;
constexpr int kStep = SIGUSR1;

void send(pid_t process, int signal_number, int number) {
    if (process > 0) {
        sigval value{};
        value.sival_int = number;
        (void)::sigqueue(process, signal_number, value);
    }
}

timespec until(Clock::time_point deadline) {
    const auto left = std::max(deadline - Clock::now(), Clock::duration::zero());
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(left - seconds);
    return {.tv_sec = seconds.count(), .tv_nsec = rest.count()};
}

}  // namespace

Result<TakeOverOutcome> ask_take_over(pid_t keeper,
                                      TakeOverRequest request,
                                      std::chrono::milliseconds patience,
                                      const std::function<void(TakeOverStep)>& on_step) {
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, kAnswer);
    sigaddset(&awaited, kStep);
    ::sigprocmask(SIG_BLOCK, &awaited, nullptr);
    sigval value{};
    value.sival_int = static_cast<int>(request);
    if (::sigqueue(keeper, SIGUSR2, value) != 0) {
        return failure(error_from_errno("cannot reach process " + std::to_string(keeper)));
    }
    const auto deadline = Clock::now() + patience;
    // Bounded by time.
    while (true) {
        const timespec left = until(deadline);
        siginfo_t info{};
        const int number = ::sigtimedwait(&awaited, &info, &left);
        if (number < 0 && errno == EINTR) {
            continue;
        }
        if (number < 0) {
            return failure(Error{.message = "process " + std::to_string(keeper) +
                                            " does not answer: is it a keeper?"});
        }
        if (info.si_code != SI_QUEUE || info.si_pid != keeper) {
            continue;
        }
        const int said = info.si_value.sival_int;
        if (number == kStep) {
            if (said == static_cast<int>(TakeOverStep::kStarting) ||
                said == static_cast<int>(TakeOverStep::kHandingOver)) {
                on_step(static_cast<TakeOverStep>(said));
            }
            continue;
        }
        const bool is_known = said == static_cast<int>(TakeOverOutcome::kTaken) ||
                              said == static_cast<int>(TakeOverOutcome::kRolledBack);
        return is_known ? static_cast<TakeOverOutcome>(said) : TakeOverOutcome::kUnchanged;
    }
}

void answer_take_over(pid_t asked_by, TakeOverOutcome outcome) {
    send(asked_by, kAnswer, static_cast<int>(outcome));
}

void tell_take_over_step(pid_t asked_by, TakeOverStep step) {
    send(asked_by, kStep, static_cast<int>(step));
}

}  // namespace outrigger::control
