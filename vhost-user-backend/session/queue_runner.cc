// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/queue_runner.h"

#include <chrono>
#include <utility>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/probe.h"

namespace outrigger {
namespace {

/// A descriptor that claims to be readable and never is would keep the worker awake for nothing.
constexpr uint32_t kEmptyKicksMax = 1000;

/// How soon a ring without a kick descriptor is looked at again.
constexpr auto kPollInterval = std::chrono::milliseconds(1);

bool has_fd(const SharedFd& fd) {
    return fd != nullptr && fd->valid();
}

}  // namespace

QueueRunner::QueueRunner(const Environment& environment,
                         std::unique_ptr<Virtqueue> queue,
                         RingDescriptors descriptors,
                         bool enabled,
                         Events events)
    : environment_(environment),
      worker_(&environment.worker),
      home_(&environment.worker),
      queue_(std::move(queue)),
      descriptors_(std::move(descriptors)),
      events_(std::move(events)),
      memory_losses_(environment.memory_losses.load(std::memory_order_relaxed)),
      measures_latency_(queue_->config().measures_latency),
      enabled_(enabled),
      serves_disabled_(environment.device.identity().serves_disabled) {
    queue_->set_enabled(enabled);
    work_before_ = work_done();
}

Result<void> QueueRunner::start() {
    return join_worker();
}

Result<void> QueueRunner::join_worker() {
    OUTRIGGER_TRY(environment_.device.start_queue(environment_.index, *queue_, *worker_));
    lent_ = true;
    waiting_ = false;
    lend_memory();
    watch_kick();
    worker_->add_source(*this);
    return {};
}

void QueueRunner::lend_memory() {
    environment_.device.use_memory(environment_.index,
                                   queue_->broken() ? MemorySnapshot::empty() : queue_->memory());
}

void QueueRunner::watch_kick() {
    if (has_fd(descriptors_.kick)) {
        kick_watch_ =
            worker_->loop().watch_readable(descriptors_.kick->get(), [this] { on_kick(); });
    }
}

void QueueRunner::unwatch_kick() {
    if (kick_watch_) {
        worker_->loop().unwatch(*std::exchange(kick_watch_, std::nullopt));
    }
}

void QueueRunner::look_again_later() {
    if (!poll_timer_) {
        // The worker polls every source after its timers, so there is nothing more to do.
        poll_timer_ = worker_->loop().start_timer(EventLoop::Clock::now() + kPollInterval,
                                                  [this] { poll_timer_.reset(); });
    }
}

void QueueRunner::stop_looking() {
    if (poll_timer_) {
        worker_->loop().cancel_timer(*std::exchange(poll_timer_, std::nullopt));
    }
}

void QueueRunner::set_enabled(bool enabled) {
    if (enabled && !enabled_) {
        // The session forgot what it was told before.
        queue_->tell_misses_again();
    }
    if (serves_disabled_ && enabled != enabled_) {
        queue_->request_processing();
    }
    enabled_ = enabled;
    queue_->set_enabled(enabled);
}

void QueueRunner::set_kick(SharedFd kick) {
    unwatch_kick();
    stop_looking();
    descriptors_.kick = std::move(kick);
    descriptors_.kick_in_band = false;
    empty_kicks_ = 0;
    watch_kick();
}

void QueueRunner::kick_in_band(Done looked) {
    count_kick();
    // The worker polls every source after its tasks.
    looked_ = std::move(looked);
}

void QueueRunner::set_call(SharedFd call) {
    descriptors_.call = std::move(call);
    descriptors_.call_in_band = false;
    signal_call();
}

void QueueRunner::count_kick() {
    environment_.counters.kicks_received.add();
    environment_.metrics.kicks_received.add();
}

void QueueRunner::on_kick() {
    // The worker polls every source after its callbacks: reading the signal is all there is to do.
    switch (drain_notification(descriptors_.kick->get(), descriptors_.kick->kind)) {
        case DrainResult::kSignalled:
            empty_kicks_ = 0;
            OUTRIGGER_PROBE(kick, to_number(environment_.index));
            count_kick();
            return;
        case DrainResult::kEmpty:
            if (++empty_kicks_ < kEmptyKicksMax) {
                return;
            }
            break;
        case DrainResult::kEnded:
            // The writers of a pipe are gone. The ring still runs, it just gets no kicks.
            unwatch_kick();
            return;
        case DrainResult::kBroken:
            break;
    }
    unwatch_kick();
    queue_->break_ring(RingError::kKickBroken);
}

void QueueRunner::signal_call() {
    if (!has_fd(descriptors_.call)) {
        if (descriptors_.call_in_band) {
            events_.on_in_band_call();
        }
        return;
    }
    if (send_notification(descriptors_.call->get(), descriptors_.call->kind) ==
        SignalResult::kDelivered) {
        environment_.counters.calls_sent.add();
        environment_.metrics.calls_sent.add();
    } else {
        environment_.counters.calls_lost.add();
        environment_.metrics.calls_lost.add();
    }
}

void QueueRunner::signal_log_change() {
    if (queue_->take_log_change() && has_fd(descriptors_.log_call)) {
        (void)send_notification(descriptors_.log_call->get(), descriptors_.log_call->kind);
    }
}

void QueueRunner::publish() {
    const bool calls = queue_->publish();
    if (queue_->has_unmeasured()) {
        queue_->end_batch(worker_->look_at_time());
    }
    if (calls) {
        signal_call();
    }
    signal_log_change();
}

bool QueueRunner::may_process() const {
    if (serving_resumed_) [[unlikely]] {
        return !waiting_;  // like requests in flight, for which it does not matter what is enabled
    }
    return (enabled_ || serves_disabled_) && !stopping_ && !waiting_ && motion_ == Motion::kNone &&
           (!IntakeGate::is_closed_at(gate_seen_) || queue_->has_resumed());
}

bool QueueRunner::poll() {
    look_at_gate();
    if (waiting_ && queue_->take_processing_request()) {
        waiting_ = false;
    }
    bool worked = false;
    check_memory();  // what is available may be zeroes of our own
    queue_->set_watched(OUTRIGGER_CHAINS_ARE_WATCHED);
    if (may_process() && queue_->has_available()) {
        if (std::exchange(kicks_enabled_, false)) {
            queue_->suppress_kicks();
        }
        if (measures_latency_) {
            queue_->begin_batch(worker_->recent_time());
        }
        OUTRIGGER_PROBE(process, to_number(environment_.index), queue_.get());
        waiting_ = environment_.device.process_queue(environment_.index) == QueueProgress::kWaiting;
        worked = true;
        count_round();
    }
    publish();
    check_memory();
    if (queue_->has_new_misses() && enabled_ && !stopping_) [[unlikely]] {
        events_.on_misses(queue_->take_misses(),
                          queue_->goes_on_waiting() ? MissTurn::kNext : MissTurn::kInLine);
    }
    check_broken();
    check_memory_released();
    check_resumed();
    check_quiet();
    tell_of_quiet();
    // In a pause for a move the device has not looked: the first round behind it says so.
    if (looked_ && (motion_ == Motion::kNone || stopping_)) {
        std::exchange(looked_, nullptr)();
    }
    return worked;
}

/// Behind a closed gate the device may have looked at a ring in vain and wait for a kick.
void QueueRunner::look_at_gate() {
    if (environment_.gate == nullptr) {
        return;
    }
    const auto changes = environment_.gate->changes();
    if (std::exchange(gate_seen_, changes) != changes && !IntakeGate::is_closed_at(changes))
        [[unlikely]] {
        queue_->request_processing();
    }
}

/// Behind publish(): the driver sees all answers.
void QueueRunner::tell_of_quiet() {
    if (IntakeGate::is_closed_at(gate_seen_) && gate_seen_ != quiet_told_ &&
        queue_->in_flight() == 0 && queue_->resumed_count() == 0) [[unlikely]] {
        quiet_told_ = gate_seen_;
        events_.on_quiet(gate_seen_);
    }
}

bool QueueRunner::prepare_sleep() {
    if (stopping_ || !may_process()) {
        return true;
    }
    const bool polled = !has_fd(descriptors_.kick) && !descriptors_.kick_in_band;
    if (polled && !queue_->broken()) {
        look_again_later();
        return true;
    }
    // A device may have popped beside its turn, for another of its queues.
    if (kicks_enabled_ && !queue_->kicks_are_stale()) {
        return true;
    }
    kicks_enabled_ = true;
    // True when requests came between the last look and the arming: they may have seen kicks
    // suppressed, so nobody would wake us for them.
    const bool has_work = queue_->enable_kicks();
    OUTRIGGER_PROBE(rearm, to_number(environment_.index), has_work);
    signal_log_change();
    return !has_work;
}

void QueueRunner::check_memory() {
    queue_->check_memory();
    // Relaxed: the session wakes the worker by a post, which orders what must be.
    if (environment_.memory_losses.load(std::memory_order_relaxed) != memory_losses_) {
        queue_->break_ring(RingError::kMemoryLost);
    }
}

void QueueRunner::check_broken() {
    const auto error = queue_->broken();
    if (!error || std::exchange(broken_reported_, true)) {
        return;
    }
    if (lent_) {
        // Perhaps because its memory went, which nothing here should keep.
        lend_memory();
    }
    // The session first: who is told by the descriptor may ask for the status at once.
    events_.on_broken(*error);
    if (has_fd(descriptors_.err)) {
        (void)send_notification(descriptors_.err->get(), descriptors_.err->kind);
    }
}

void QueueRunner::adopt_memory(std::shared_ptr<const MemorySnapshot> memory,
                               bool drain,
                               Done done) {
    queue_->adopt_memory(std::move(memory));
    if (lent_) {
        lend_memory();
    }
    if (!drain) {
        done();
        return;
    }
    memory_released_ = std::move(done);
    check_memory_released();
    if (memory_released_ && !stopping_ && lent_) {
        environment_.device.hurry_queue(environment_.index);
    }
}

void QueueRunner::on_misses_answered(std::span<const TranslationMiss> misses, bool refused) {
    for (const TranslationMiss& miss : misses) {
        queue_->on_miss_answered(miss, refused);
    }
}

void QueueRunner::give_up_drain() {
    if (memory_released_) {
        std::exchange(memory_released_, nullptr)();
    }
}

void QueueRunner::check_memory_released() {
    if (memory_released_ && queue_->old_memory_released()) {
        std::exchange(memory_released_, nullptr)();
    }
}

void QueueRunner::stop(StopKind kind, Stopped stopped) {
    stopping_ = true;
    stopped_ = std::move(stopped);
    if (quiet_) {
        end_quiesce(false);
    }
    unwatch_kick();
    stop_looking();
    if (!lent_) {
        worker_->post([this] { finish_stop(); });
        return;
    }
    const bool suspends = kind == StopKind::kSuspend && queue_->notes_in_flight();
    if (!suspends && queue_->has_resumed()) {
        serve_resumed();
    } else {
        take_back(suspends ? StopKind::kSuspend : StopKind::kDrain);
    }
}

/// What an earlier process had in hand and left is in flight for the driver, though the device has
/// not come to it: nobody but this ring knows of it.
void QueueRunner::serve_resumed() {
    serving_resumed_ = true;
    waiting_ = false;
    queue_->end_with_resumed();
    environment_.device.hurry_queue(environment_.index);
}

void QueueRunner::check_resumed() {
    if (serving_resumed_ && !queue_->has_resumed()) [[unlikely]] {
        serving_resumed_ = false;
        take_back(StopKind::kDrain);
    }
}

void QueueRunner::take_back(StopKind kind) {
    auto drained = [this] {
        lent_ = false;
        // Not from here: the device may still be inside a completion, and the worker inside poll().
        worker_->post([this] { finish_stop(); });
    };
    switch (kind) {
        case StopKind::kDrain:
            tell_of_left_requests();
            environment_.device.stop_queue(environment_.index, std::move(drained));
            break;
        case StopKind::kSuspend:
            environment_.device.suspend_queue(environment_.index, std::move(drained));
            break;
    }
}

/// Their memory is not there, or not translated. The in-flight log still has them.
void QueueRunner::tell_of_left_requests() const {
    static LogLimiter limiter;
    if (!queue_->broken() && queue_->resumed_count() > 0) {
        limiter.log(LogLevel::kWarning,
                    "ring {} stops, and {} requests of an earlier process are not answered: what "
                    "they are made of is not in memory",
                    to_number(environment_.index),
                    queue_->resumed_count());
    }
}

void QueueRunner::finish_stop() {
    OUTRIGGER_ASSERT(queue_->in_flight() == 0);
    publish();
    check_broken();
    check_memory_released();
    worker_->remove_source(*this);
    const VringBase base = queue_->base();
    std::exchange(stopped_, nullptr)(base);
}

}  // namespace outrigger
