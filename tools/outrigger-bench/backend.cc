// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/backend.h"

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include <unistd.h>

#include <fmt/core.h>

#include "tools/outrigger-bench/process_usage.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {
namespace {

/// Between two attempts to connect, one sees whether what was started is still there.
constexpr std::chrono::milliseconds kAttempt{200};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

cpu_set_t only(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(static_cast<size_t>(cpu), &cpus);
    return cpus;
}

/// Nobody listens there yet, or too many wait there: all else stays as it is.
bool may_come(const Error& error) {
    return error.os_error == ENOENT || error.os_error == ECONNREFUSED || error.os_error == EAGAIN;
}

driver::BringUpOptions bring_up_options(const BenchPlan& plan, const DeviceNeeds& needs) {
    return {.features = needs.features,
            .packed = plan.packed,
            .event_idx = plan.event_idx,
            .indirect = plan.indirect,
            .indirect_segments_max = kSegmentsMax,
            .queue_count = needs.rings,
            .queue_size = plan.ring_size,
            .enable = true};
}

}  // namespace

Result<driver::GuestMemory> create_guest_memory(const BenchPlan& plan, const DeviceNeeds& needs) {
    // A ring's areas, and a table for each descriptor.
    const uint64_t ring_bytes =
        uint64_t{plan.ring_size} * (kSegmentsMax + 3) * driver::kDescriptorBytes + 4096;
    const uint64_t bytes = needs.rings * ring_bytes + needs.buffer_bytes;
    OUTRIGGER_TRY(check_memory(bytes, "so many requests of that size need"));
    constexpr uint64_t kHugePage = 2 << 20;
    return driver::GuestMemory::create((bytes / kHugePage + 1) * kHugePage, GuestAddr{kHugePage});
}

Result<void> check_memory(uint64_t bytes, std::string_view what) {
    const auto pages = static_cast<uint64_t>(std::max(0L, ::sysconf(_SC_PHYS_PAGES)));
    const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    if (bytes / page_bytes >= pages / 4) {
        return refuse(
            fmt::format("{} {} MiB of memory, which is more than a quarter of what there is",
                        what,
                        bytes >> 20));
    }
    return {};
}

std::optional<cpu_set_t> processors_of_this_thread() {
    cpu_set_t cpus;
    return ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? std::optional(cpus) : std::nullopt;
}

Result<void> place_thread(int cpu) {
    const cpu_set_t cpus = only(cpu);
    if (::sched_setaffinity(0, sizeof cpus, &cpus) != 0) {
        return failure(error_from_errno(fmt::format("cannot run on processor {}", cpu)));
    }
    return {};
}

Result<void> place_thread(const BenchPlan& plan, uint16_t queue) {
    return plan.cpus.empty() ? Result<void>() : place_thread(plan.cpus[queue % plan.cpus.size()]);
}

Result<std::unique_ptr<Backend>> Backend::connect(const BenchPlan& plan,
                                                  const Target& target,
                                                  const std::string& side,
                                                  const std::optional<cpu_set_t>& elsewhere) {
    std::unique_ptr<Backend> backend(new Backend(plan, target, side));
    const auto started = backend->start(elsewhere);
    if (!started) {
        return failure(backend->of_this_side(started.error()));
    }
    return backend;
}

Error Backend::of_this_side(Error error) const {
    error.message = fmt::format("{} ({}): {}", side_, target_.socket, error.message);
    return error;
}

Result<void> Backend::start(const std::optional<cpu_set_t>& elsewhere) {
    if (!target_.command.empty()) {
        const auto cpus = target_.cpu ? only(*target_.cpu) : elsewhere;
        started_.emplace(OUTRIGGER_TRY(StartedBackend::start(target_.command, cpus)));
    }
    OUTRIGGER_TRY(connect_socket());
    pid_ = target_.pid ? target_.pid : peer_process(frontend_->socket());
    if (pid_) {
        const auto used = cpu_seconds(*pid_);
        if (!used && target_.pid) {
            return failure(used.error());
        }
        // Who listened may have gone since, and left the socket to another.
        pid_ = used ? pid_ : std::nullopt;
    }
    return bring_up();
}

Result<void> Backend::connect_socket() {
    const driver::Deadline deadline = driver::after(plan_.patience);
    while (true) {
        const driver::Deadline attempt = driver::after(kAttempt);
        auto frontend = driver::Frontend::connect(target_.socket, std::min(deadline, attempt));
        if (frontend) {
            frontend_.emplace(*std::move(frontend));
            frontend_->set_time_limit(plan_.patience);
            return {};
        }
        if (started_) {
            if (const auto ended = started_->ended()) {
                return refuse("what was started did not stay: " + *ended);
            }
        }
        if (!may_come(frontend.error()) || driver::Clock::now() >= deadline) {
            return failure(frontend.error());
        }
    }
}

Result<void> Backend::bring_up() {
    const DeviceNeeds needs = device_needs(plan_);
    memory_ = OUTRIGGER_TRY(create_guest_memory(plan_, needs));
    auto running = driver::bring_up(*frontend_, memory_, bring_up_options(plan_, needs));
    if (!running) {
        return explain(running.error(), needs.rings);
    }
    running_ = *std::move(running);
    loads_ = OUTRIGGER_TRY(create_loads(plan_, target_, *frontend_, running_, memory_));
    return {};
}

/// Why the queues could not be brought up.
std::unexpected<Error> Backend::explain(const driver::BringUpFailure& why, uint16_t rings) {
    if (why.answer == driver::Answer::kRefused && rings > 1 &&
        frontend_->protocol_features().has(bit(wire::ProtocolFeature::kMq))) {
        const auto queues = frontend_->get_queue_num();
        if (queues && *queues < rings) {
            return refuse(fmt::format("it has only {} queues, of {}", *queues, rings));
        }
    }
    return refuse(fmt::format("{} went wrong: {}", why.step, driver::describe(why.answer)));
}

Result<void> Backend::run_loads(Phase phase, driver::Deadline end) {
    std::vector<Result<void>> outcomes(loads_.size());
    {
        std::vector<std::jthread> threads;
        for (uint16_t queue = 1; queue < loads_.size(); ++queue) {
            threads.emplace_back([&, queue] {
                outcomes[queue] = place_thread(plan_, queue);
                if (outcomes[queue]) {
                    outcomes[queue] = loads_[queue]->run(phase, end);
                }
            });
        }
        outcomes[0] = loads_[0]->run(phase, end);
    }
    const auto failed = std::ranges::find_if(
        outcomes, [](const Result<void>& outcome) { return !outcome.has_value(); });
    return failed == outcomes.end() ? Result<void>() : *failed;
}

Result<RoundResult> Backend::run(Phase phase, std::chrono::milliseconds duration) {
    const auto used = [this] { return pid_ ? cpu_seconds(*pid_).value_or(0) : 0; };
    const double before = used();
    const auto outcome = run_loads(phase, driver::after(duration));
    if (!outcome) {
        return failure(of_this_side(outcome.error()));
    }
    RoundResult result{.counts = {}, .rate = 0, .cpu_seconds = std::max(0.0, used() - before)};
    for (const auto& load : loads_) {
        const LoadCounts counts = load->take_counts();
        result.rate +=
            counts.seconds > 0 ? static_cast<double>(counts.completed) / counts.seconds : 0;
        result.counts.merge(counts);
    }
    return result;
}

Result<void> Backend::close() {
    Result<void> outcome;
    for (const auto& load : loads_) {
        const auto closed = load->close();
        outcome = outcome && !closed ? closed : outcome;
    }
    return outcome;
}

std::string Backend::complaint() const {
    for (const auto& load : loads_) {
        if (!load->complaint().empty()) {
            return of_this_side(Error{.message = load->complaint()}).message;
        }
    }
    return {};
}

uint64_t Backend::compared() const {
    uint64_t sum = 0;
    for (const auto& load : loads_) {
        sum += load->compared();
    }
    return sum;
}

}  // namespace outrigger::bench
