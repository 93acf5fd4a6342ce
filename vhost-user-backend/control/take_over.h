// SPDX-License-Identifier: Apache-2.0
/// How a daemon's keeper (docs/keeper.md) is asked to go on with another binary, and what it
/// answers: SIGUSR2 with a value, for which nobody needs a socket. Linux alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger::control {

/// Which binary. The values are what is sent.
enum class TakeOverRequest : int {
    kOfSender = 0x4f52'746b,  ///< that of the process that asks
    kAtPath = 0x4f52'746c,    ///< what lies at the path of the daemon's binary by now; tell steps
    kReload = 0x4f52'746d,    ///< the one that runs, with the file of --config read anew; likewise
};

enum class TakeOverOutcome : int {
    kTaken = 1,       ///< front ends are served by it
    kUnchanged = 2,   ///< refused, or it did not come up: nobody has noticed
    kRolledBack = 3,  ///< it did not serve in time: the binary before does again
    kBusy = 4,        ///< another one is under way, or the daemon is starting: ask again
};

/// Told by SIGRTMIN, to those who asked for it; all of them before the outcome.
enum class TakeOverStep : int {
    kStarting = 1,     ///< the program starts, beside the one that serves
    kHandingOver = 2,  ///< it is there: the one before is told to go
};

/// Asks process `keeper`, which must be of our user (its answer does not reach another's), and
/// waits for the outcome. An Error: it cannot be reached (os_error), or does not answer within
/// `patience` (none), and what comes of it is not known; its log may say more. Blocks both signals
/// for the calling thread, for good. Thread: that of a program that has one.
[[nodiscard]] Result<TakeOverOutcome> ask_take_over(
    pid_t keeper,
    TakeOverRequest request,
    std::chrono::milliseconds patience,
    const std::function<void(TakeOverStep)>& on_step = [](TakeOverStep) {});

// --- The keeper's side ---------------------------------------------------------------------------

/// Best effort; 0: nobody asked.
void answer_take_over(pid_t asked_by, TakeOverOutcome outcome);
void tell_take_over_step(pid_t asked_by, TakeOverStep step);

}  // namespace outrigger::control
