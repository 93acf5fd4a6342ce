// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <signal.h>
#include <time.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/keeper.h"
#include "vhost-user-backend/daemon/take_over_signal.h"

namespace outrigger {

int take_over(std::string_view program, pid_t keeper) {
    sigset_t answers;
    sigemptyset(&answers);
    sigaddset(&answers, SIGUSR2);
    ::sigprocmask(SIG_BLOCK, &answers, nullptr);
    sigval value{};
    value.sival_int = kTakeOverValue;
    if (::sigqueue(keeper, SIGUSR2, value) != 0) {
        log(LogLevel::kError,
            "{}: {}",
            program,
            error_from_errno("cannot reach process " + std::to_string(keeper)).message);
        return 1;
    }
    // Twice the limit of the keeper, and the time of its way back.
    const timespec limit{.tv_sec = 10, .tv_nsec = 0};
    siginfo_t info{};
    const int answer = ::sigtimedwait(&answers, &info, &limit);
    if (answer == SIGUSR2 && info.si_pid == keeper && info.si_value.sival_int == kTakenOver) {
        log(LogLevel::kInfo, "{}: process {} has taken this program", program, keeper);
        return 0;
    }
    log(LogLevel::kError,
        "{}: process {} does not take this program{}",
        program,
        keeper,
        answer == SIGUSR2 ? ", its log says why" : ": it does not answer: is it a keeper?");
    return 1;
}

}  // namespace outrigger
