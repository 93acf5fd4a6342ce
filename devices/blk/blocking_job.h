// SPDX-License-Identifier: Apache-2.0
/// A call that may block for long, made for the control thread on a thread of its own.
#pragma once

#include <functional>
#include <memory>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

namespace outrigger::blk {

/// Thread-bound: control thread. One job at a time.
class BlockingJob final {
  public:
    BlockingJob() = default;
    BlockingJob(const BlockingJob&) = delete;
    BlockingJob& operator=(const BlockingJob&) = delete;
    /// Waits for a job that is under way. No worker may run any more.
    ~BlockingJob();

    /// Runs `job` on a helper thread, which `worker` starts (so that it has a helper's
    /// confinement), and then `done` on the control thread; with an error when no thread could be
    /// started.
    void run(Worker& worker,
             EventLoop& control_loop,
             std::move_only_function<void()> job,
             std::move_only_function<void(Result<void>)> done);

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace outrigger::blk
