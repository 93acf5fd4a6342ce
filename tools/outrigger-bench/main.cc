// SPDX-License-Identifier: Apache-2.0
/// outrigger-bench: measures vhost-user back ends with the user-space driver of tools/driver.
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <string>

#include "vhost-user-backend/daemon/option_text.h"

#include "tools/outrigger-bench/backend.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/calibration.h"
#include "tools/outrigger-bench/copy_cost.h"
#include "tools/outrigger-bench/measurement.h"
#include "tools/outrigger-bench/report.h"

namespace outrigger::bench {
namespace {

constexpr int kMeasured = 0;
constexpr int kBackendFailed = 1;
constexpr int kUsage = 2;

int complain(const std::string& what, int status) {
    std::fprintf(stderr, "outrigger-bench: %s\n", what.c_str());
    return status;
}

int print_man_page(const std::string& path) {
    std::ifstream file(path);
    const std::string page((std::istreambuf_iterator<char>(file)), {});
    const auto text = bench_man_page(page);
    if (!text) {
        return complain(path + ": " + text.error().message, kUsage);
    }
    std::fputs(text->c_str(), stdout);
    return kMeasured;
}

int run_calibration(const BenchPlan& plan) {
    constexpr std::chrono::milliseconds kTime{1000};
    const auto placed = place_thread(plan, 0);
    if (!placed) {
        return complain(placed.error().message, kUsage);
    }
    const auto own = calibrate(plan, kTime);
    if (!own) {
        return complain(own.error().message, kBackendFailed);
    }
    std::optional<OwnCost> copy;
    if (plan.device_cpu && plan.workload == WorkloadKind::kBlk && plan.access != Access::kFlush) {
        const auto measured = measure_copy(plan, kTime / 2);
        if (!measured) {
            return complain(measured.error().message, kBackendFailed);
        }
        copy = *measured;
    }
    const std::string text =
        plan.json ? calibration_json(plan, *own, copy) : calibration_text(plan, *own, copy);
    std::fputs(text.c_str(), stdout);
    return kMeasured;
}

int run_measurement(const BenchPlan& plan) {
    const auto report = measure(plan);
    if (!report) {
        std::fputs(plan.json ? failure_json(plan, report.error().message).c_str() : "", stdout);
        return complain(report.error().message, kBackendFailed);
    }
    std::fputs((plan.json ? report_json(plan, *report) : report_text(plan, *report)).c_str(),
               stdout);
    return report->complaint.empty() ? kMeasured : complain(report->complaint, kBackendFailed);
}

int run(std::span<const char* const> arguments) {
    const auto plan = parse_bench_options(arguments);
    if (!plan) {
        return complain(plan.error().message + "; see --help", kUsage);
    }
    switch (plan->action) {
        case BenchAction::kHelp:
            std::fputs(bench_help_text().c_str(), stdout);
            return kMeasured;
        case BenchAction::kVersion:
            std::printf("outrigger-bench %s\n", OUTRIGGER_VERSION);
            return kMeasured;
        case BenchAction::kManPage:
            return print_man_page(plan->man_page_template);
        case BenchAction::kCalibrate:
            return run_calibration(*plan);
        case BenchAction::kMeasure:
            break;
    }
    return run_measurement(*plan);
}

}  // namespace
}  // namespace outrigger::bench

int main(int argc, char** argv) {
    try {
        return outrigger::bench::run(std::span<const char* const>(argv, static_cast<size_t>(argc))
                                         .subspan(argc > 0 ? 1 : 0));
    } catch (const std::exception& exception) {
        std::fprintf(stderr, "outrigger-bench: %s\n", exception.what());
        return 1;
    }
}
