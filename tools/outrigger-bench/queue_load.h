// SPDX-License-Identifier: Apache-2.0
/// Keeps one queue busy: so many requests of a workload in flight, each answered one replaced.
///
/// Bound to one thread at a time: the one that calls run(). Allocates nothing in run() while all
/// goes well.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/driver_queue.h"
#include "tools/outrigger-bench/instant_device.h"
#include "tools/outrigger-bench/load.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {

struct LoadOptions {
    uint32_t depth = 1;
    driver::ChainLayout layout = driver::ChainLayout::kDirect;
    bool spin = true;
    /// A back end that answers nothing for so long is lost.
    std::chrono::milliseconds patience{10'000};
    int socket = -1;  ///< the connection, whose end ends the run (borrowed); -1: there is none
};

class QueueLoad final {
  public:
    /// All of them are borrowed. `device` serves the queue in this thread; null: a back end does.
    QueueLoad(driver::DriverQueue& queue,
              Workload& workload,
              const LoadOptions& options,
              InstantDevice* device = nullptr);

    /// As Load::run() says.
    [[nodiscard]] Result<void> run(Phase phase, driver::Deadline end);

    [[nodiscard]] LoadCounts take_counts();

  private:
    void fill();
    [[nodiscard]] bool submit(uint32_t slot);
    [[nodiscard]] bool take_completions();
    [[nodiscard]] bool take_completion(const driver::Completion& completion);
    [[nodiscard]] Result<void> idle();
    [[nodiscard]] Result<void> look_around();
    void sleep();

    driver::DriverQueue& queue_;
    Workload& workload_;
    const LoadOptions options_;
    InstantDevice* const device_;

    std::vector<driver::Deadline> begun_;  // by slot
    uint32_t in_flight_ = 0;
    uint32_t empty_looks_ = 0;
    bool open_ = false;   // answered requests are replaced
    bool wrong_ = false;  // the workload has seen a wrong answer
    driver::Deadline now_;
    driver::Deadline end_;
    driver::Deadline last_answer_;
    LoadCounts counts_;
};

}  // namespace outrigger::bench
