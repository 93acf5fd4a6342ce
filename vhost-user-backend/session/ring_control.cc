// SPDX-License-Identifier: Apache-2.0
// Starting and stopping rings, and waiting for their workers.
#include <algorithm>
#include <chrono>
#include <utility>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

/// How soon a session that closes looks again for workers that its front end put to sleep.
constexpr auto kReleaseInterval = std::chrono::milliseconds(100);

Refusal to_refusal(VirtqueueSetupError error) {
    switch (error) {
        case VirtqueueSetupError::kSize:
            return Refusal::kRingSize;
        case VirtqueueSetupError::kBase:
            return Refusal::kRingBase;
        case VirtqueueSetupError::kInflight:
            return Refusal::kInflightLog;
        case VirtqueueSetupError::kAlignment:
        case VirtqueueSetupError::kUnmapped:
        case VirtqueueSetupError::kScattered:
            return Refusal::kRingAddress;
    }
    return Refusal::kRingAddress;
}

}  // namespace

void Session::Impl::for_one_runner(QueueRunner& runner, RunnerTask task, Continuation then) {
    auto on_control = [this, then = std::move(then)]() mutable {
        environment_.control_loop.post(std::move(then));
    };
    runner.post([&runner, task = std::move(task), on_control = std::move(on_control)]() mutable {
        task(runner, std::move(on_control));
    });
}

void Session::Impl::for_each_runner(const std::shared_ptr<RunnerTask>& task, Continuation then) {
    // One more than the rings, so that `then` runs once even when no ring runs.
    auto outstanding = std::make_shared<size_t>(1);
    auto shared_then = std::make_shared<Continuation>(std::move(then));
    const auto one_done = [outstanding, shared_then] {
        if (--*outstanding == 0) {
            (*shared_then)();
        }
    };
    for (Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            ++*outstanding;
            for_one_runner(
                *ring.runner,
                [task](QueueRunner& runner, QueueRunner::Done done) {
                    (*task)(runner, std::move(done));
                },
                one_done);
        }
    }
    one_done();
}

void Session::Impl::stop_ring(size_t index, QueueRunner::StopKind kind, Continuation then) {
    Vring& ring = rings_[index];
    ring.started = false;
    ring.waits_for_memory = false;
    ring.descriptors.kick = nullptr;
    misses_.forget_ring(index);
    if (ring.runner == nullptr) {
        on_ring_stopped(index);
        then();
        return;
    }
    QueueRunner& runner = *ring.runner;
    auto on_control = [this, index, then = std::move(then)](VringBase base) mutable {
        environment_.control_loop.post([this, index, base, then = std::move(then)]() mutable {
            Vring& stopped = rings_[index];
            stopped.base = base;
            stopped.running = false;
            stopped.stopped_here = true;
            stopped.without_memory = std::nullopt;
            stopped.runner.reset();
            on_ring_stopped(index);
            then();
        });
    };
    runner.post([&runner, kind, on_control = std::move(on_control)]() mutable {
        runner.stop(kind, std::move(on_control));
    });
}

void Session::Impl::on_ring_stopped(size_t index) {
    rings_[index].broken = false;
    rings_[index].quiet_at = 0;
    requests_.on_state_changed();
    if (environment_.gate != nullptr) {
        environment_.on_quiet();
    }
    if (!any_ring_running()) {
        state_.on_rings_stopped();
    }
    if (memory_->mode().iommu && !any_ring_running()) {
        // QEMU tells of nothing that the guest unmaps from now on, and starts with nothing.
        forget_translations();
    }
    if (suspended()) {
        environment_.device.on_suspended();
    }
}

/// A front end that has the in-flight buffer of a ring may come back with it, to this process or
/// the next one, and its guest need not know of that: a session that closes leaves there what waits
/// for something. Where nobody has one, nobody would take such requests up again, and the driver
/// would wait for ever: they are answered.
void Session::Impl::stop_all_rings(StopCause cause, Continuation then) {
    auto outstanding = std::make_shared<size_t>(rings_.size());
    auto shared_then = std::make_shared<Continuation>(std::move(then));
    for (size_t index = 0; index < rings_.size(); ++index) {
        const bool suspends = cause == StopCause::kClose && frontend_keeps_requests(index);
        const auto kind =
            suspends ? QueueRunner::StopKind::kSuspend : QueueRunner::StopKind::kDrain;
        stop_ring(index, kind, [outstanding, shared_then] {
            if (--*outstanding == 0) {
                (*shared_then)();
            }
        });
    }
}

void Session::Impl::release_workers() {
    for (const auto& known : ring_fds_) {
        if (const SharedFd fd = known.lock()) {
            release_sender(fd->get(), fd->kind);
        }
    }
    // A worker may come to a descriptor later, and who is still there may have filled it again.
    release_timer_ = environment_.control_loop.start_timer(
        EventLoop::Clock::now() + kReleaseInterval, [this] { release_workers(); });
}

bool Session::Impl::suspended() const {
    return std::ranges::none_of(
        rings_, [](const Vring& ring) { return ring.started || ring.runner != nullptr; });
}

bool Session::Impl::any_ring_running() const {
    for (const Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            return true;
        }
    }
    return false;
}

RingDescriptors Session::Impl::runner_descriptors(const Vring& ring) const {
    const bool in_band = negotiated(wire::ProtocolFeature::kInbandNotifications);
    RingDescriptors descriptors = ring.descriptors;
    descriptors.kick_in_band = in_band && !ring.polled;
    descriptors.call_in_band = in_band && !ring.call_is_set;
    descriptors.log_call = log_call_;
    return descriptors;
}

QueueRunner::Events Session::Impl::runner_events(size_t index) {
    return {
        .on_broken =
            [this, index](RingError error) {
                environment_.control_loop.post(
                    [this, index, error] { on_ring_broken(index, error); });
            },
        .on_in_band_call =
            [this, index] {
                // Release: the used entries go before the call. The partner is the exchange
                // of on_in_band_call().
                if (!call_posted_[index].exchange(true, std::memory_order_acq_rel)) {
                    environment_.control_loop.post([this, index] { on_in_band_call(index); });
                }
            },
        .on_misses =
            [this, index](std::span<const TranslationMiss> misses, MissTurn turn) {
                environment_.control_loop.post(
                    [this, index, list = std::vector(misses.begin(), misses.end()), turn] {
                        on_ring_misses(index, list, turn);
                    });
            },
        .on_unwatched_load =
            [this] { environment_.control_loop.post([this] { placement_.on_unwatched_load(); }); },
        .on_quiet =
            [this, index](IntakeGate::Count closing) {
                environment_.control_loop.post(
                    [this, index, closing] { on_ring_quiet(index, closing); });
            }};
}

void Session::Impl::on_in_band_call(size_t index) {
    // Acquire: pairs with the exchange of the worker, which does not post while this is true.
    (void)call_posted_[index].exchange(false, std::memory_order_acq_rel);
    if (requests_.signal_ring(BackendRequests::RingSignal::kCall, index)) {
        environment_.counters.calls_sent.add();
        environment_.queue_metrics[index].calls_sent.add();
    } else {
        environment_.counters.calls_lost.add();
        environment_.queue_metrics[index].calls_lost.add();
    }
}

// --- Broken rings ------------------------------------------------------------------------------

void Session::Impl::on_ring_broken(size_t index, RingError error) {
    environment_.counters.rings_broken.add(error);
    Vring& ring = rings_[index];
    const bool first = std::ranges::none_of(rings_, &Vring::broken);
    ring.broken = true;
    if (negotiated(wire::ProtocolFeature::kInbandNotifications) && !ring.err_is_set) {
        (void)requests_.signal_ring(BackendRequests::RingSignal::kErr, index);
    }
    if (first) {
        // A device that needs a reset must say so (VIRTIO 1.3, 2.1.2).
        requests_.config_changed();
    }
    if (error == RingError::kMemoryLost) {
        poison(index);
        return;
    }
    if (error == RingError::kDirtyLog) {
        log_is_incomplete_ = true;
        note_now();
    }
    environment_.logs.broken.log(
        LogLevel::kWarning,
        "{}: ring {} stopped, {}: {}",
        identity_.name,
        index,
        error == RingError::kDirtyLog ? "the front end broke it" : "the guest's driver broke it",
        describe(error));
}

/// Zeroes are in the place of guest memory. What other rings read may be just that.
void Session::Impl::poison(size_t first_index) {
    // Relaxed: counted up on this thread alone.
    const uint32_t losses = memory_losses_.load(std::memory_order_relaxed);
    const auto& first = rings_[first_index].runner;
    if (first != nullptr && first->memory_losses_at_start() != losses) {
        return;  // it follows another ring: all that were started before that loss know of it
    }
    if (close_reason_) {
        return;  // every ring stops, and perhaps we took the memory away: Postcopy::give_up()
    }
    environment_.logs.poison.log(
        LogLevel::kError,
        "{}: guest memory is gone, which ring {} was the first to find: the front end truncated "
        "its file, or this host has no (huge) pages for it; every ring has stopped until the "
        "front end stops and starts it with other memory",
        identity_.name,
        first_index);
    // Relaxed: the posts below order it before what the workers read.
    memory_losses_.store(losses + 1, std::memory_order_relaxed);
    for (const Vring& ring : rings_) {
        if (ring.runner != nullptr && !ring.broken) {
            // Only a wake-up: the runner may be on its way to a stop, so no task may name it.
            ring.runner->post([] {});
        }
    }
}

// --- The gate ----------------------------------------------------------------------------------

void Session::Impl::on_gate_changed() {
    for (const Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            ring.runner->post([] {});  // only a wake-up, as above
        }
    }
}

void Session::Impl::on_ring_quiet(size_t index, IntakeGate::Count closing) {
    rings_[index].quiet_at = closing;
    environment_.on_quiet();
}

bool Session::Impl::is_quiet() const {
    const auto closing = environment_.gate->changes();
    return std::ranges::all_of(rings_, [closing](const Vring& ring) {
        return ring.runner == nullptr || ring.quiet_at == closing;
    });
}

bool Session::Impl::effectively_enabled(const Vring& ring) const {
    // Without VHOST_USER_F_PROTOCOL_FEATURES rings are enabled from the start ("Ring states").
    return ring.enabled || !features_.has(wire::kProtocolFeaturesBit);
}

VringBase Session::Impl::base_of(const Vring& ring) const {
    // A ring that was never told where it stands is new. In a packed one, both wrap counters are 1.
    constexpr VringBase kNewPackedRing{0x8000'8000};
    return ring.base.value_or(features_.has(kFeatureRingPacked) ? kNewPackedRing : VringBase{});
}

bool Session::Impl::ring_is_ready(const Vring& ring) const {
    return ring.started && ring.runner == nullptr && ring.size && ring.address &&
           !memory_->regions().empty() &&
           (!ring.waits_for_memory || address_is_possible(*ring.address, ring.size));
}

void Session::Impl::start_ring(size_t index, RingStarted then) {
    if (const auto refusal = admit_ring(index)) {
        then(refusal);
        return;
    }
    // On the worker, because making a ring reads what is in it: a page of guest memory that is yet
    // to come (postcopy) must not keep the control thread waiting.
    const Vring& ring = rings_[index];
    Worker& worker = *environment_.workers[placement_.worker_of(index)];
    worker.post([this,
                 index,
                 &worker,
                 config = queue_config(index),
                 base = base_of(ring),
                 memory = memory_,
                 inflight = inflight_area(index),
                 log = log_in_use_,
                 used_log_address = used_log_address(ring),
                 then = std::move(then)]() mutable {
        auto queue = Virtqueue::create(config, base, std::move(memory), std::move(inflight));
        if (queue) {
            (*queue)->set_log(std::move(log), used_log_address);
        }
        environment_.control_loop.post(
            [this, index, &worker, queue = std::move(queue), then = std::move(then)]() mutable {
                if (queue) {
                    run_ring(index, worker, *std::move(queue), std::move(then));
                } else {
                    then(to_refusal(queue.error()));
                }
            });
    });
}

void Session::Impl::run_ring(size_t index,
                             Worker& worker,
                             std::unique_ptr<Virtqueue> queue,
                             RingStarted then) {
    Vring& ring = rings_[index];
    ring.runner = std::make_unique<QueueRunner>(
        QueueRunner::Environment{.device = environment_.device,
                                 .index = QueueIndex{static_cast<uint16_t>(index)},
                                 .worker = worker,
                                 .counters = environment_.counters,
                                 .metrics = environment_.queue_metrics[index],
                                 .memory_losses = memory_losses_,
                                 .load_unwatched = placement_.load_unwatched(),
                                 .gate = environment_.gate},
        std::move(queue),
        runner_descriptors(ring),
        effectively_enabled(ring),
        runner_events(index));
    // Control and worker meet in `started`: written before the post, read after it.
    auto started = std::make_shared<Result<void>>();
    for_one_runner(
        *ring.runner,
        [started](QueueRunner& runner, QueueRunner::Done runner_done) {
            *started = runner.start();
            runner_done();
        },
        [this, index, started, then = std::move(then)]() mutable {
            if (started->has_value()) {
                environment_.counters.rings_started.add();
                rings_[index].running = true;
                rings_[index].waits_for_memory = false;
                used_ = true;
                state_.on_ring_started(static_cast<uint16_t>(index));
                requests_.on_state_changed();
                then(std::nullopt);
                return;
            }
            environment_.logs.refusal.log(LogLevel::kWarning,
                                          "{}: ring {} cannot start: {}",
                                          identity_.name,
                                          index,
                                          started->error().message);
            rings_[index].runner.reset();
            if (!any_ring_running()) {
                environment_.device.on_suspended();
            }
            then(Refusal::kDevice);
        });
}

void Session::Impl::start_ready_rings(std::optional<size_t> asked, RingStarted then) {
    const auto is_ready = [this](const Vring& ring) { return ring_is_ready(ring); };
    if (state_.is_loading() && std::ranges::any_of(rings_, is_ready)) {
        // What comes is of before this start. It ends in its time, well or badly.
        state_.when_ended([this, asked, then = std::move(then)]() mutable {
            if (close_reason_) {
                then(Refusal::kState);
            } else {
                start_ready_rings(asked, std::move(then));
            }
        });
        return;
    }

    // One more than the rings, so that `then` runs after the loop at the earliest.
    struct Progress {
        size_t outstanding = 1;
        std::optional<Refusal> refusal;
        RingStarted then;
    };

    auto progress = std::make_shared<Progress>();
    progress->then = std::move(then);
    const auto one_done = [progress] {
        if (--progress->outstanding == 0) {
            progress->then(progress->refusal);
        }
    };
    for (size_t index = 0; index < rings_.size(); ++index) {
        if (!ring_is_ready(rings_[index])) {
            continue;
        }
        ++progress->outstanding;
        start_ring(index, [this, index, asked, progress, one_done](std::optional<Refusal> refusal) {
            if (asked == index) {
                progress->refusal = refusal;
            } else if (refusal && *refusal != Refusal::kDevice) {  // which has a line of its own
                environment_.logs.refusal.log(LogLevel::kWarning,
                                              "{}: ring {} cannot start: {}",
                                              identity_.name,
                                              index,
                                              describe(*refusal));
            }
            one_done();
        });
    }
    one_done();
}

}  // namespace outrigger
