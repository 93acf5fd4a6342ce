// SPDX-License-Identifier: Apache-2.0
/// What was measured, in words and as JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/measurement.h"

namespace outrigger::bench {

/// A table for a reader. With two back ends the last line is their ratio.
[[nodiscard]] std::string report_text(const BenchPlan& plan, const RunReport& report);

[[nodiscard]] std::string report_json(const BenchPlan& plan, const RunReport& report);

/// In place of a report: `error` says why there is none.
[[nodiscard]] std::string failure_json(const BenchPlan& plan, std::string_view error);

/// The same of a calibration alone, and of the copies that a disk in memory makes, where they were
/// measured.
[[nodiscard]] std::string calibration_text(const BenchPlan& plan,
                                           const OwnCost& own,
                                           const std::optional<OwnCost>& copy);
[[nodiscard]] std::string calibration_json(const BenchPlan& plan,
                                           const OwnCost& own,
                                           const std::optional<OwnCost>& copy);

}  // namespace outrigger::bench
