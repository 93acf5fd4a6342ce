// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/take_over.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

#include <sys/wait.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/control/take_over.h"

#include "tools/outriggerctl/ctl_client.h"

namespace outrigger::ctl {
namespace {

using control::TakeOverOutcome;
using control::TakeOverStep;

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kRolledBack = 3;

struct Outcome {
    TakeOverOutcome how = TakeOverOutcome::kUnchanged;
    std::string why{};  ///< of kUnchanged; may be empty
};

int complain(const std::string& what) {
    std::fprintf(stderr, "outriggerctl: %s\n", what.c_str());
    return kFailed;
}

Result<pid_t> find_keeper(const CtlPlan& plan) {
    return plan.keeper != 0 ? Result<pid_t>(plan.keeper)
                            : keeper_of(OUTRIGGER_TRY(describe_daemon(plan)));
}

/// The keeper takes the binary of who asks, so that binary asks.
Outcome ask_with(const std::string& binary, pid_t keeper) {
    const std::string option = "--take-over=" + std::to_string(keeper);
    const pid_t child = ::fork();
    if (child == 0) {
        ::execl(binary.c_str(), binary.c_str(), option.c_str(), nullptr);
        constexpr int kNotStarted = 127;
        ::_exit(kNotStarted);
    }
    int status = 0;
    while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
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

Outcome ask_keeper(const CtlPlan& plan, pid_t keeper, control::TakeOverRequest request) {
    const auto on_step = [&](TakeOverStep step) {
        if (!plan.json) {
            std::fputs(step == TakeOverStep::kStarting
                           ? "the new program starts beside the one that serves\n"
                           : "it is there: the one before goes\n",
                       stderr);
        }
    };
    const auto outcome = control::ask_take_over(keeper, request, plan.timeout, on_step);
    if (!outcome) {
        return {.why = outcome.error().message};
    }
    return {.how = *outcome};
}

std::string_view name_of(TakeOverOutcome how) {
    switch (how) {
        case TakeOverOutcome::kTaken:
            return "taken";
        case TakeOverOutcome::kUnchanged:
            return "unchanged";
        case TakeOverOutcome::kRolledBack:
            return "rolled-back";
    }
    return "unchanged";
}

int exit_status_of(TakeOverOutcome how) {
    switch (how) {
        case TakeOverOutcome::kTaken:
            return kDone;
        case TakeOverOutcome::kUnchanged:
            return kFailed;
        case TakeOverOutcome::kRolledBack:
            return kRolledBack;
    }
    return kFailed;
}

int report(const CtlPlan& plan,
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
    return exit_status_of(outcome.how);
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

int take_over(const CtlPlan& plan, pid_t keeper, control::TakeOverRequest request) {
    const auto began = std::chrono::steady_clock::now();
    return report(plan, keeper, ask_keeper(plan, keeper, request), began);
}

int take_over(const CtlPlan& plan) {
    const auto keeper = find_keeper(plan);
    if (!keeper) {
        return complain(keeper.error().message);
    }
    if (plan.binary.empty()) {
        return take_over(plan, *keeper, control::TakeOverRequest::kAtPath);
    }
    const auto began = std::chrono::steady_clock::now();
    return report(plan, *keeper, ask_with(plan.binary, *keeper), began);
}

}  // namespace outrigger::ctl
