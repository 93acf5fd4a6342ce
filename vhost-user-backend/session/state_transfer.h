// SPDX-License-Identifier: Apache-2.0
/// A device's state on its way, on a helper thread: encoding, writing, reading, parsing. Whoever
/// began it is told how it ended, unless it was given up before.
#pragma once

#include <functional>
#include <memory>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/session/state_channel.h"
#include "vhost-user-backend/state/device_state.h"

namespace outrigger {

/// Thread-bound: control thread.
class StateTransfer final {
  public:
    /// The state that was sent, or that has come: parsed, but not yet seen by a device.
    using Outcome = Result<DeviceState, StateError>;
    using OnEnd = std::move_only_function<void(Outcome)>;

    /// So many at a time in one process, given up and not yet ended ones included: a file of a file
    /// system that does not answer holds its thread.
    static constexpr int kTransfersMax = 16;

    /// Null when there are too many already. `on_end` is called once, from `loop`, and may destroy
    /// this object. The thread is started by `worker`, so that it has a helper's confinement.
    [[nodiscard]] static std::unique_ptr<StateTransfer> save(
        Worker& worker, EventLoop& loop, StateChannel channel, DeviceState state, OnEnd on_end);
    [[nodiscard]] static std::unique_ptr<StateTransfer> load(Worker& worker,
                                                             EventLoop& loop,
                                                             StateChannel channel,
                                                             OnEnd on_end);

    StateTransfer(const StateTransfer&) = delete;
    StateTransfer& operator=(const StateTransfer&) = delete;
    /// Gives it up if it has not ended: `on_end` is not called any more. Does not wait.
    ~StateTransfer();

  private:
    class Job;

    explicit StateTransfer(std::shared_ptr<Job> job) : job_(std::move(job)) {}

    static std::unique_ptr<StateTransfer> start(Worker& worker, std::shared_ptr<Job> job);

    std::shared_ptr<Job> job_;
};

}  // namespace outrigger
