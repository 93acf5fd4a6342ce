// SPDX-License-Identifier: Apache-2.0
/// A started ring on its worker: takes kicks, has the device process requests, publishes what was
/// completed and calls the driver.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/session/counters.h"
#include "vhost-user-backend/session/iotlb_misses.h"
#include "vhost-user-backend/virtq/intake_gate.h"

namespace outrigger {

/// A descriptor that the control thread and a worker hold together.
using SharedFd = std::shared_ptr<const NotificationFd>;

/// The descriptors of a ring. Null or empty ones do not exist: no kick means that the ring is
/// polled (vhost-user SET_VRING_KICK), no call that the driver polls, unless messages take their
/// place ("In-band notifications").
struct RingDescriptors {
    SharedFd kick;
    SharedFd call;
    SharedFd err;
    SharedFd log_call = nullptr;  ///< SET_LOG_FD: the dirty log has changed
    bool kick_in_band = false;    ///< without `kick`: VRING_KICK tells of requests
    bool call_in_band = false;    ///< without `call`: VRING_CALL tells the driver
};

/// Constructed on the control thread, then thread-bound to its worker until stop() has called back.
/// The worker may change meanwhile: see leave().
class QueueRunner final : public WorkSource {
  public:
    using Done = std::move_only_function<void()>;
    using Stopped = std::move_only_function<void(VringBase)>;

    enum class StopKind : uint8_t {
        kDrain,    ///< every request is answered, those of an earlier process too
        kSuspend,  ///< those that can wait stay in the in-flight log
    };

    /// Called on the worker.
    struct Events {
        std::move_only_function<void(RingError)> on_broken;  ///< once, when the ring breaks
        std::move_only_function<void()> on_in_band_call;     ///< the driver wants a VRING_CALL
        /// The ring waits for these translations, and for no others. Never of a ring that is
        /// disabled or stops: front ends refuse those.
        std::move_only_function<void(std::span<const TranslationMiss>, MissTurn)> on_misses;
        /// The ring has been at work for a while, and `load_unwatched` was set, which is reset.
        std::move_only_function<void()> on_unwatched_load;
        /// The gate is closed, and no request is in flight: once for each time that it was closed.
        std::move_only_function<void(IntakeGate::Count)> on_quiet;
    };

    struct Environment {
        Device& device;
        QueueIndex index;
        Worker& worker;  ///< where it starts
        SessionCounters& counters;
        QueueMetrics& metrics;  ///< of this queue: those of the ring, too
        /// Counts up when the session loses guest memory: rings of earlier counts break.
        const std::atomic<uint32_t>& memory_losses;
        /// Whoever balances queues looks at nothing, and wants to know of work; null: nobody does.
        std::atomic<bool>* load_unwatched = nullptr;
        /// Null: it is always open.
        const IntakeGate* gate = nullptr;
    };

    QueueRunner(const Environment& environment,
                std::unique_ptr<Virtqueue> queue,
                RingDescriptors descriptors,
                bool enabled,
                Events events);

    QueueRunner(const QueueRunner&) = delete;
    QueueRunner& operator=(const QueueRunner&) = delete;
    ~QueueRunner() = default;

    // --- Of the control thread -------------------------------------------------------------------

    /// Runs `task` on the worker that the runner is on, in order of posting. While the runner is on
    /// its way to another one, tasks wait here.
    void post(EventLoop::Task task);

    /// The first half of a move: takes the queue back from the device, on the worker, and calls
    /// `left` there. Behind a quiesce() that has said true, and not behind the post of a stop().
    void leave(Done left);

    /// The second half: lends the queue out on `worker`, and says there whether the device took it.
    /// If it did not, another worker is to be tried, but after the last one the ring has broken.
    /// Both halves are told by the control thread: a worker that posted to another one might still
    /// be on its way out of post() when that one ends.
    void join(Worker& worker, bool is_last, std::move_only_function<void(bool)> joined);

    /// The end of a move: tasks that waited go to where the runner is.
    void go_on();

    /// What the ring has done since it was started: requests, those of many bytes for more. Any
    /// thread.
    [[nodiscard]] uint64_t work_done() const;

    // --- Of the worker ---------------------------------------------------------------------------

    /// Lends the queue to the device and looks at the ring at once, whether or not a kick came:
    /// a kick may have been lost while nobody watched (vhost-user "Ring states").
    [[nodiscard]] Result<void> start();

    /// Any thread.
    [[nodiscard]] QueueIndex index() const { return environment_.index; }

    /// Any thread: the session's count when the ring was made.
    [[nodiscard]] uint32_t memory_losses_at_start() const { return memory_losses_; }

    /// A ring that is not enabled keeps its requests, and asks for nothing, unless the device
    /// serves such rings (DeviceIdentity::serves_disabled).
    void set_enabled(bool enabled);

    void set_kick(SharedFd kick);

    /// VRING_KICK: the worker looks at the ring, then calls `looked`. During a move that is the
    /// worker that has the ring behind it.
    void kick_in_band(Done looked);

    /// Signals the new descriptor once: QEMU swaps it while requests complete.
    void set_call(SharedFd call);

    /// What the ring writes is marked in `log` from now on, or (null) nowhere: see
    /// Virtqueue::set_log().
    void set_log(std::shared_ptr<const DirtyLog> log, std::optional<GuestAddr> used_log_address) {
        queue_->set_log(std::move(log), used_log_address);
    }

    /// Is signalled when something was marked. Null: nobody wants to know.
    void set_log_call(SharedFd log_call) { descriptors_.log_call = std::move(log_call); }

    void set_err(SharedFd err) { descriptors_.err = std::move(err); }

    /// Takes over `memory`. `done` is called when the ring uses it, or, if `drain` is set, when
    /// no request in flight uses older memory either.
    void adopt_memory(std::shared_ptr<const MemorySnapshot> memory, bool drain, Done done);

    /// Where the ring stands, if its memory does not lie in what adopt_memory() brought.
    [[nodiscard]] std::optional<VringBase> base_without_memory() const {
        return queue_->has_memory() ? std::nullopt : std::optional(queue_->base());
    }

    /// To the ring, behind the adopt_memory() of what the answer brought.
    void on_misses_answered(std::span<const TranslationMiss> misses, bool refused);

    /// Ends the wait of adopt_memory() now, if there is one. The requests keep their memory.
    void give_up_drain();

    /// Begins no more requests until none is in flight, then calls `quiet` with true, and begins
    /// none until join(), or stop(). With false, and as if nothing had been, when that takes
    /// too long, the ring is broken or it stops.
    void quiesce(std::move_only_function<void(bool)> quiet);

    /// Takes the queue back from the device, waits until it has no request any more, and tells
    /// where the ring stands. Nothing touches the runner afterwards.
    void stop(StopKind kind, Stopped stopped);

    [[nodiscard]] bool poll() override;
    [[nodiscard]] bool prepare_sleep() override;

  private:
    [[nodiscard]] bool may_process() const;
    void count_kick();
    void watch_kick();
    void unwatch_kick();
    void look_again_later();
    void stop_looking();
    [[nodiscard]] Result<void> join_worker();
    void lend_memory();
    void leave_worker();
    void check_quiet();
    void end_quiesce(bool quiet);
    void count_round();
    void on_kick();
    void signal_call();
    void signal_log_change();
    void publish();
    void check_memory();
    void check_broken();
    void check_memory_released();
    void serve_resumed();
    void check_resumed();
    void look_at_gate();
    void tell_of_quiet();
    void take_back(StopKind kind);
    void tell_of_left_requests() const;
    void finish_stop();

    /// Who begins requests.
    enum class Motion : uint8_t {
        kNone,
        kQuiescing,  ///< nobody: quiesce() waits for those in flight
        kQuiet,      ///< nobody: none is in flight
    };

    Environment environment_;
    Worker* worker_;  // of the worker: where it is
    Worker* home_;    // of the control thread: where its tasks go

    // Of the control thread: what waits for go_on().
    std::optional<std::vector<EventLoop::Task>> waiting_tasks_;

    std::unique_ptr<Virtqueue> queue_;
    RingDescriptors descriptors_;
    Events events_;
    std::optional<WatchId> kick_watch_;
    std::optional<TimerId> poll_timer_;  // of a ring without a kick descriptor
    Motion motion_ = Motion::kNone;
    std::optional<TimerId> quiesce_timer_;
    std::move_only_function<void(bool)> quiet_;
    Done left_;
    Done memory_released_;
    Done looked_;  // of kick_in_band()
    Stopped stopped_;
    const uint32_t memory_losses_;  // when the ring was made
    const bool measures_latency_;
    uint64_t work_before_ = 0;  // of the queue's earlier rings
    uint32_t empty_kicks_ = 0;
    uint32_t rounds_ = 0;  // that did something
    IntakeGate::Count gate_seen_ = 0;
    IntakeGate::Count quiet_told_ = 0;  // of which it was told
    bool enabled_;
    const bool serves_disabled_;
    bool lent_ = false;  // the device has the queue
    bool kicks_enabled_ =
        false;              // the first sleep arms them, whatever an earlier run left in the ring
    bool waiting_ = false;  // the device asked not to be called until it says so
    bool stopping_ = false;
    bool serving_resumed_ = false;  // for the sake of stop()
    bool broken_reported_ = false;
};

}  // namespace outrigger
