// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/take_over.h"

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/keeper.h"

namespace outrigger {
namespace {

/// Twice the limit of the keeper, and the time of its way back.
constexpr auto kPatience = std::chrono::seconds(10);

constexpr int kExitUnchanged = 1;
constexpr int kExitRolledBack = 3;

}  // namespace

int take_over(std::string_view program, pid_t keeper) {
    const auto outcome =
        control::ask_take_over(keeper, control::TakeOverRequest::kOfSender, kPatience);
    if (!outcome) {
        log(LogLevel::kError, "{}: {}", program, outcome.error().message);
        return kExitUnchanged;
    }
    switch (*outcome) {
        case control::TakeOverOutcome::kTaken:
            log(LogLevel::kInfo, "{}: process {} has taken this program", program, keeper);
            return 0;
        case control::TakeOverOutcome::kUnchanged:
            log(LogLevel::kError,
                "{}: process {} does not take this program, its log says why",
                program,
                keeper);
            return kExitUnchanged;
        case control::TakeOverOutcome::kBusy:
            log(LogLevel::kError,
                "{}: process {} is starting a program, or replacing one: ask again",
                program,
                keeper);
            return kExitUnchanged;
        case control::TakeOverOutcome::kRolledBack:
            log(LogLevel::kError,
                "{}: process {} has gone back to the program before: this one did not serve in "
                "time",
                program,
                keeper);
            return kExitRolledBack;
    }
    return kExitUnchanged;
}

}  // namespace outrigger
