// SPDX-License-Identifier: Apache-2.0
/// The time of a script: as it passes, and more when the script says so. A program that links this
/// has one std::chrono::steady_clock for everything in it.
#pragma once

#include <chrono>

namespace outrigger::fuzz {

/// Timers that are due by then run as soon as their loop has its next turn.
void pass_time(std::chrono::milliseconds time);

}  // namespace outrigger::fuzz
