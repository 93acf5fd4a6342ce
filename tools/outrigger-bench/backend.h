// SPDX-License-Identifier: Apache-2.0
/// One back end under load: its connection, its queues, and a thread for each load on them.
///
/// Bound to the main thread; run() uses others and has none left when it returns.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sched.h>
#include <sys/types.h>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/bring_up.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/load.h"
#include "tools/outrigger-bench/started_backend.h"

namespace outrigger::bench {

/// What all loads did in one run.
struct RoundResult {
    LoadCounts counts;
    double rate = 0;         ///< requests a second, of all loads together
    double cpu_seconds = 0;  ///< of the back end; 0 when nobody knows its process
};

class Backend final {
  public:
    /// Starts it where the plan says so, connects and brings its queues up. `side` is "A" or "B";
    /// `elsewhere`: where what is started runs when its target has no processor.
    [[nodiscard]] static Result<std::unique_ptr<Backend>> connect(
        const BenchPlan& plan,
        const Target& target,
        const std::string& side,
        const std::optional<cpu_set_t>& elsewhere);

    /// Runs one phase in all loads; Phase::kLoad for so long. Errors name the back end, which is
    /// then of no more use.
    [[nodiscard]] Result<RoundResult> run(Phase phase, std::chrono::milliseconds duration);

    /// At the end, however the runs went.
    [[nodiscard]] Result<void> close();

    /// The first complaint about an answer; empty: there was none.
    [[nodiscard]] std::string complaint() const;

    [[nodiscard]] uint64_t compared() const;

    [[nodiscard]] const std::string& side() const { return side_; }

    [[nodiscard]] const std::string& socket_path() const { return target_.socket; }

    /// Nullopt: nobody knows.
    [[nodiscard]] std::optional<pid_t> pid() const { return pid_; }

    [[nodiscard]] const driver::Agreement& agreement() const { return running_.agreement; }

    [[nodiscard]] bool packed() { return running_.queues.front().packed() != nullptr; }

  private:
    Backend(const BenchPlan& plan, const Target& target, std::string side)
        : plan_(plan), target_(target), side_(std::move(side)) {}

    [[nodiscard]] Result<void> start(const std::optional<cpu_set_t>& elsewhere);
    [[nodiscard]] Result<void> connect_socket();
    [[nodiscard]] Result<void> bring_up();
    [[nodiscard]] std::unexpected<Error> explain(const driver::BringUpFailure& why, uint16_t rings);
    [[nodiscard]] Result<void> run_loads(Phase phase, driver::Deadline end);
    [[nodiscard]] Error of_this_side(Error error) const;

    const BenchPlan plan_;
    const Target target_;
    const std::string side_;
    std::optional<StartedBackend> started_;
    std::optional<pid_t> pid_;
    driver::GuestMemory memory_;
    std::optional<driver::Frontend> frontend_;
    driver::RunningDevice running_;
    std::vector<std::unique_ptr<Load>> loads_;
};

/// Guest memory for all rings and buffers. Errors: more than the machine should give.
[[nodiscard]] Result<driver::GuestMemory> create_guest_memory(const BenchPlan& plan,
                                                              const DeviceNeeds& needs);

/// Errors: so many bytes are more than a quarter of the machine's memory. `what` begins the words.
[[nodiscard]] Result<void> check_memory(uint64_t bytes, std::string_view what);

/// Where the calling thread may run. Nullopt on a machine with more processors than a set holds.
[[nodiscard]] std::optional<cpu_set_t> processors_of_this_thread();

/// Binds the calling thread to that processor.
[[nodiscard]] Result<void> place_thread(int cpu);

/// Binds the calling thread to the processor of that queue, where the plan has one.
[[nodiscard]] Result<void> place_thread(const BenchPlan& plan, uint16_t queue);

}  // namespace outrigger::bench
