// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/measurement.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <unistd.h>

#include "tools/outrigger-bench/backend.h"
#include "tools/outrigger-bench/process_usage.h"

namespace outrigger::bench {
namespace {

constexpr std::chrono::milliseconds kCalibrationTime{200};

/// How much of the machine others use from now on.
class MachineWatch final {
  public:
    /// Nullopt: nobody knows which processes are ours.
    explicit MachineWatch(std::optional<std::vector<pid_t>> ours) : ours_(std::move(ours)) {
        machine_ = machine_seconds();
        own_ = own_seconds();
        began_ = driver::Clock::now();
    }

    [[nodiscard]] std::optional<double> others_load() const {
        const auto now = machine_seconds();
        if (!ours_ || !machine_ || !now) {
            return std::nullopt;
        }
        const std::chrono::duration<double> took = driver::Clock::now() - began_;
        const double all = took.count() * static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN));
        return std::clamp((*now - *machine_ - (own_seconds() - own_)) / all, 0.0, 1.0);
    }

  private:
    [[nodiscard]] double own_seconds() const {
        double sum = 0;
        for (const pid_t pid : ours_.value_or(std::vector<pid_t>{})) {
            sum += cpu_seconds(pid).value_or(0);
        }
        return sum;
    }

    std::optional<std::vector<pid_t>> ours_;
    std::optional<double> machine_;
    double own_ = 0;
    driver::Deadline began_;
};

/// One back end and what is known of it.
struct Side {
    std::unique_ptr<Backend> backend;
    SideReport report;
};

Result<Side> connect(const BenchPlan& plan,
                     const Target& target,
                     const std::string& name,
                     const std::optional<cpu_set_t>& elsewhere) {
    Side side{.backend = OUTRIGGER_TRY(Backend::connect(plan, target, name, elsewhere)),
              .report = {}};
    const FeatureSet features = side.backend->agreement().features;
    side.report.socket = target.socket;
    side.report.pid = side.backend->pid();
    side.report.packed = side.backend->packed();
    side.report.event_idx = features.has(driver::kEventIdxBit);
    side.report.indirect = features.has(driver::kIndirectDescBit);
    return side;
}

Result<void> run_round(Side& side, const BenchPlan& plan) {
    const RoundResult round = OUTRIGGER_TRY(side.backend->run(Phase::kLoad, plan.round_time));
    side.report.rates.push_back(round.rate);
    side.report.counts.merge(round.counts);
    side.report.cpu_seconds += round.cpu_seconds;
    return {};
}

/// A round of its own, because the trace points slow the back end down.
Result<void> count_system_calls(Side& side, const BenchPlan& plan) {
    if (!plan.system_calls || !side.report.pid) {
        return {};
    }
    const SystemCallCounter counter(*side.report.pid);
    const RoundResult round = OUTRIGGER_TRY(side.backend->run(Phase::kLoad, plan.round_time));
    side.report.system_calls = counter.count();
    side.report.system_calls_requests = round.counts.completed;
    return {};
}

Result<void> run_rounds(std::vector<Side*> sides, const BenchPlan& plan) {
    for (Side* side : sides) {
        OUTRIGGER_TRY(side->backend->run(Phase::kPrepare, {}));
        // One that does not count: page tables, caches, the clock of the processor.
        OUTRIGGER_TRY(side->backend->run(Phase::kLoad, plan.round_time));
        OUTRIGGER_TRY(count_system_calls(*side, plan));
    }
    for (uint32_t round = 0; round < plan.rounds; ++round) {
        for (Side* side : sides) {
            OUTRIGGER_TRY(run_round(*side, plan));
        }
        // Who comes first changes, so that a drift of the machine favours nobody.
        std::ranges::reverse(sides);
    }
    return {};
}

Result<void> check_content(const std::vector<Side*>& sides) {
    for (Side* side : sides) {
        OUTRIGGER_TRY(side->backend->run(Phase::kCheck, {}));
    }
    return {};
}

Result<void> close_all(const std::vector<Side*>& sides) {
    Result<void> outcome;
    for (Side* side : sides) {
        const auto closed = side->backend->close();
        outcome = outcome && !closed ? closed : outcome;
    }
    return outcome;
}

}  // namespace

Result<RunReport> measure(const BenchPlan& plan) {
    RunReport report;
    // What is started must not inherit the processor on which this thread spins.
    const auto elsewhere = processors_of_this_thread();
    OUTRIGGER_TRY(place_thread(plan, 0));
    if (!plan.verify && !has_streams(plan.workload)) {
        report.own = OUTRIGGER_TRY(calibrate(plan, kCalibrationTime));
    }
    Side a = OUTRIGGER_TRY(connect(plan, plan.a, "A", elsewhere));
    std::optional<Side> b;
    if (plan.b) {
        b = OUTRIGGER_TRY(connect(plan, *plan.b, "B", elsewhere));
    }
    std::vector<Side*> sides = {&a};
    if (b) {
        sides.push_back(&*b);
    }
    std::vector<std::optional<pid_t>> pids = {::getpid()};
    for (const Side* side : sides) {
        pids.push_back(side->report.pid);
    }
    const MachineWatch watch(distinct_processes(pids));
    auto outcome = run_rounds(sides, plan);
    report.others_load = watch.others_load();
    if (outcome) {
        outcome = check_content(sides);
    }
    const auto closed = close_all(sides);
    OUTRIGGER_TRY(outcome);
    OUTRIGGER_TRY(closed);
    for (Side* side : sides) {
        side->report.compared = side->backend->compared();
        report.complaint = report.complaint.empty() ? side->backend->complaint() : report.complaint;
    }
    report.a = std::move(a.report);
    if (b) {
        report.b = std::move(b->report);
    }
    return report;
}

}  // namespace outrigger::bench
