// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/state_transfer.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger {
namespace {

std::atomic<int> transfers = 0;

}  // namespace

/// Shared by the control thread, the worker that starts the thread, and the thread.
class StateTransfer::Job final {
  public:
    Job(EventLoop& loop, StateChannel channel, std::optional<DeviceState> state, OnEnd on_end)
        : channel_(std::move(channel)),
          state_(std::move(state)),
          on_end_(std::move(on_end)),
          loop_(&loop) {
        // Relaxed, here and elsewhere: a count that orders nothing.
        transfers.fetch_add(1, std::memory_order_relaxed);
    }

    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

    ~Job() { transfers.fetch_sub(1, std::memory_order_relaxed); }

    /// The helper thread's.
    void run(const std::shared_ptr<Job>& self) { end(self, transfer()); }

    /// Any thread, once.
    void end(const std::shared_ptr<Job>& self, Outcome outcome) {
        const std::lock_guard lock(mutex_);
        // The loop is there as long as nobody has given up: give_up() waits for this lock.
        if (loop_ != nullptr) {
            loop_->post([self, outcome = std::move(outcome)]() mutable {
                if (OnEnd on_end = std::exchange(self->on_end_, nullptr)) {
                    on_end(std::move(outcome));
                }
            });
        }
    }

    // Relaxed: the thread only returns the sooner for it.
    [[nodiscard]] bool is_given_up() const { return stop_.load(std::memory_order_relaxed); }

    void give_up() {
        // Relaxed: likewise.
        stop_.store(true, std::memory_order_relaxed);
        on_end_ = nullptr;
        const std::lock_guard lock(mutex_);
        loop_ = nullptr;
    }

  private:
    Outcome transfer() {
        if (!state_) {
            const std::string bytes = OUTRIGGER_TRY(channel_.receive(stop_));
            return parse_state(std::as_bytes(std::span(bytes)));
        }
        const auto encoded = encode_state(*state_);
        // What cannot be sent ends all the same, or the other side would wait.
        OUTRIGGER_TRY(channel_.send(encoded.value_or(""), stop_));
        OUTRIGGER_TRY(encoded);
        return *std::move(state_);
    }

    StateChannel channel_;              // of the helper thread
    std::optional<DeviceState> state_;  // of the helper thread; what is saved
    OnEnd on_end_;                      // of the control thread
    std::atomic<bool> stop_ = false;
    std::mutex mutex_;
    EventLoop* loop_;  // guarded by mutex_
};

std::unique_ptr<StateTransfer> StateTransfer::start(Worker& worker, std::shared_ptr<Job> job) {
    worker.post([job] {
        if (job->is_given_up()) {
            return;
        }
        auto thread = start_helper_thread("device-state", [job] { job->run(job); });
        if (thread) {
            // Nobody waits for it: it holds what it needs, and touches nothing else.
            thread->detach();
        } else {
            job->end(job,
                     failure(StateError{.fault = StateFault::kTransfer,
                                        .message = std::move(thread).error().message}));
        }
    });
    return std::unique_ptr<StateTransfer>(new StateTransfer(std::move(job)));
}

std::unique_ptr<StateTransfer> StateTransfer::save(
    Worker& worker, EventLoop& loop, StateChannel channel, DeviceState state, OnEnd on_end) {
    if (transfers.load(std::memory_order_relaxed) >= kTransfersMax) {
        return nullptr;
    }
    return start(
        worker,
        std::make_shared<Job>(loop, std::move(channel), std::move(state), std::move(on_end)));
}

std::unique_ptr<StateTransfer> StateTransfer::load(Worker& worker,
                                                   EventLoop& loop,
                                                   StateChannel channel,
                                                   OnEnd on_end) {
    if (transfers.load(std::memory_order_relaxed) >= kTransfersMax) {
        return nullptr;
    }
    return start(worker,
                 std::make_shared<Job>(loop, std::move(channel), std::nullopt, std::move(on_end)));
}

StateTransfer::~StateTransfer() {
    job_->give_up();
}

}  // namespace outrigger
