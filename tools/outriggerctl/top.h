// SPDX-License-Identifier: Apache-2.0
/// "top": what the queues of daemons do now, drawn again and again.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tools/outriggerctl/ctl_options.h"
#include "tools/outriggerctl/ctl_statistics.h"

namespace outrigger::ctl {

/// What is known of one daemon: its two latest samples.
struct TopEntry {
    std::string socket;
    Sample before{};
    Sample after{};
};

/// A title, and each device with its queues: lines without their ends.
[[nodiscard]] std::vector<std::string> top_lines(const std::vector<TopEntry>& entries);

/// What fits a terminal of that size; the last line says how many do not.
[[nodiscard]] std::vector<std::string> fit_lines(std::vector<std::string> lines,
                                                 size_t rows,
                                                 size_t columns);

/// Draws until it has done so often enough, somebody presses q, or a signal comes. The exit status.
[[nodiscard]] int top(const CtlPlan& plan);

}  // namespace outrigger::ctl
