// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/take_over.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/control/take_over.h"

#include "tools/outriggerctl/ctl_client.h"
#include "tools/outriggerctl/keeper_user.h"

namespace outrigger::ctl {
namespace {

using control::TakeOverOutcome;
using control::TakeOverStep;

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kRolledBack = 3;

/// Of a keeper that is busy, between two questions.
constexpr auto kBusyPause = std::chrono::milliseconds(50);
/// The exit status of a child that asks and does not know what came of it; else the outcome.
constexpr int kUnknown = 64;

struct Outcome {
    MaybeOutcome how = TakeOverOutcome::kUnchanged;
    std::string why{};  ///< of kUnchanged, or not known; may be empty
};

int complain(const std::string& what) {
    std::fprintf(stderr, "outriggerctl: %s\n", what.c_str());
    return kFailed;
}

Result<pid_t> find_keeper(const CtlPlan& plan) {
    return plan.keeper != 0 ? Result<pid_t>(plan.keeper)
                            : keeper_of(OUTRIGGER_TRY(describe_daemon(plan)));
}

int wait_for(pid_t child) {
    int status = 0;
    while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

/// The keeper takes the binary of who asks, so that binary asks.
Outcome ask_with(const std::string& binary, pid_t keeper) {
    const std::string option = "--take-over=" + std::to_string(keeper);
    const auto user = other_user_of(keeper);
    const pid_t child = ::fork();
    if (child == 0 && (!user || become(*user))) {
        ::execl(binary.c_str(), binary.c_str(), option.c_str(), nullptr);
    }
    if (child == 0) {
        constexpr int kNotStarted = 127;
        ::_exit(kNotStarted);
    }
    const int status = wait_for(child);
    if (child < 0 || !WIFEXITED(status) || WEXITSTATUS(status) == 127) {
        return {.why = "cannot run " + binary};
    }
    switch (WEXITSTATUS(status)) {
        case kDone:
            return {.how = TakeOverOutcome::kTaken};
        case kRolledBack:
            return {.how = TakeOverOutcome::kRolledBack};
        default:
            return {};  // it has said why
    }
}

Outcome ask_here(const CtlPlan& plan,
                 pid_t keeper,
                 control::TakeOverRequest request,
                 std::chrono::milliseconds patience) {
    const auto on_step = [&](TakeOverStep step) {
        if (!plan.json) {
            std::fputs(step == TakeOverStep::kStarting
                           ? "the new program starts beside the one that serves\n"
                           : "it is there: the one before goes\n",
                       stderr);
        }
    };
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (true) {
        const auto outcome = control::ask_take_over(keeper, request, patience, on_step);
        if (!outcome) {
            const bool was_asked = outcome.error().os_error == 0;
            return {.how = was_asked ? std::nullopt : MaybeOutcome(TakeOverOutcome::kUnchanged),
                    .why = outcome.error().message};
        }
        if (*outcome != TakeOverOutcome::kBusy) {
            return {.how = *outcome};
        }
        if (std::chrono::steady_clock::now() > deadline) {
            return {.why = "the keeper is starting a program, or replacing one"};
        }
        std::this_thread::sleep_for(kBusyPause);
    }
}

Outcome ask_keeper(const CtlPlan& plan,
                   pid_t keeper,
                   control::TakeOverRequest request,
                   std::chrono::milliseconds patience) {
    const auto user = other_user_of(keeper);
    if (!user) {
        return ask_here(plan, keeper, request, patience);
    }
    const pid_t child = ::fork();
    if (child == 0) {
        const Outcome outcome = become(*user)
                                    ? ask_here(plan, keeper, request, patience)
                                    : Outcome{.why = "cannot become the user of the keeper"};
        if (!outcome.why.empty()) {
            (void)complain(outcome.why);
        }
        ::_exit(outcome.how ? static_cast<int>(*outcome.how) : kUnknown);
    }
    if (child < 0) {
        return {.why = error_from_errno("cannot start a process").message};
    }
    const int status = wait_for(child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) == kUnknown) {
        return {.how = std::nullopt};
    }
    return {.how = static_cast<TakeOverOutcome>(WEXITSTATUS(status))};
}

std::string_view name_of(MaybeOutcome how) {
    if (!how) {
        return "unknown";
    }
    switch (*how) {
        case TakeOverOutcome::kTaken:
            return "taken";
        case TakeOverOutcome::kBusy:
        case TakeOverOutcome::kUnchanged:
            return "unchanged";
        case TakeOverOutcome::kRolledBack:
            return "rolled-back";
    }
    return "unchanged";
}

void report(const CtlPlan& plan,
            pid_t keeper,
            const Outcome& outcome,
            std::chrono::steady_clock::time_point began) {
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - began);
    if (!outcome.why.empty()) {
        (void)complain(outcome.why);
    }
    if (plan.json) {
        fmt::print("{{\n \"outcome\": \"{}\",\n \"keeper_pid\": {},\n \"milliseconds\": {}\n}}\n",
                   name_of(outcome.how),
                   keeper,
                   took.count());
    } else {
        fmt::print("{}\n", name_of(outcome.how));
    }
    std::fflush(stdout);
}

}  // namespace

Result<control::v1::Program> describe_daemon(const CtlPlan& plan) {
    const UniqueFd socket = OUTRIGGER_TRY(connect_to(plan.socket, plan.timeout));
    const auto reply = OUTRIGGER_TRY(ask(socket.get(), plan.request, -1, plan.timeout));
    if (!reply.has_program()) {
        return failure(Error{.message = "the daemon does not describe itself"});
    }
    return reply.program();
}

Result<pid_t> keeper_of(const control::v1::Program& program) {
    if (program.keeper_pid() == 0) {
        return failure(Error{.message =
                                 "the daemon has no keeper of its own: with --keeper=systemd the "
                                 "service manager replaces it (systemctl restart, with "
                                 "RestartKillSignal=SIGKILL), with --keeper=none nobody can"});
    }
    return static_cast<pid_t>(program.keeper_pid());
}

MaybeOutcome take_over(const CtlPlan& plan,
                       pid_t keeper,
                       control::TakeOverRequest request,
                       std::chrono::milliseconds patience) {
    const auto began = std::chrono::steady_clock::now();
    const Outcome outcome = ask_keeper(plan, keeper, request, patience);
    report(plan, keeper, outcome, began);
    return outcome.how;
}

int exit_status_of(MaybeOutcome how) {
    if (how == TakeOverOutcome::kTaken) {
        return kDone;
    }
    return how == TakeOverOutcome::kRolledBack ? kRolledBack : kFailed;
}

int take_over(const CtlPlan& plan) {
    const auto keeper = find_keeper(plan);
    if (!keeper) {
        return complain(keeper.error().message);
    }
    if (plan.binary.empty()) {
        return exit_status_of(
            take_over(plan, *keeper, control::TakeOverRequest::kAtPath, plan.timeout));
    }
    const auto began = std::chrono::steady_clock::now();
    const Outcome outcome = ask_with(plan.binary, *keeper);
    report(plan, *keeper, outcome, began);
    return exit_status_of(outcome.how);
}

}  // namespace outrigger::ctl
