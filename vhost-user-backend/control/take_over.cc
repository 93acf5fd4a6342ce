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

/// Of those signals each that was sent arrives, in order, and not one of them all.
int step_signal() {
    return SIGRTMIN;
}

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

sigset_t set_of(int signal_number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_number);
    return set;
}

void take_step(const siginfo_t& info,
               pid_t keeper,
               const std::function<void(TakeOverStep)>& on_step) {
    const int said = info.si_value.sival_int;
    if (info.si_code == SI_QUEUE && info.si_pid == keeper &&
        (said == static_cast<int>(TakeOverStep::kStarting) ||
         said == static_cast<int>(TakeOverStep::kHandingOver))) {
        on_step(static_cast<TakeOverStep>(said));
    }
}

}  // namespace

Result<TakeOverOutcome> ask_take_over(pid_t keeper,
                                      TakeOverRequest request,
                                      std::chrono::milliseconds patience,
                                      const std::function<void(TakeOverStep)>& on_step) {
    const sigset_t steps = set_of(step_signal());
    sigset_t awaited = steps;
    sigaddset(&awaited, kAnswer);
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
        if (number == step_signal()) {
            take_step(info, keeper, on_step);
            continue;
        }
        if (info.si_code != SI_QUEUE || info.si_pid != keeper) {
            continue;
        }
        const int said = info.si_value.sival_int;
        // The kernel gives signals of lower numbers first, whichever came first.
        const timespec at_once{};
        while (::sigtimedwait(&steps, &info, &at_once) > 0 && Clock::now() < deadline) {
            take_step(info, keeper, on_step);
        }
        const bool is_known = said == static_cast<int>(TakeOverOutcome::kTaken) ||
                              said == static_cast<int>(TakeOverOutcome::kRolledBack) ||
                              said == static_cast<int>(TakeOverOutcome::kBusy);
        return is_known ? static_cast<TakeOverOutcome>(said) : TakeOverOutcome::kUnchanged;
    }
}

void answer_take_over(pid_t asked_by, TakeOverOutcome outcome) {
    send(asked_by, kAnswer, static_cast<int>(outcome));
}

void tell_take_over_step(pid_t asked_by, TakeOverStep step) {
    send(asked_by, step_signal(), static_cast<int>(step));
}

}  // namespace outrigger::control
