// SPDX-License-Identifier: Apache-2.0
// Starting and stopping rings, and waiting for their workers.
#include <utility>

#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {

void Session::Impl::for_one_runner(QueueRunner& runner, RunnerTask task, Continuation then) {
    auto on_control = [this, then = std::move(then)]() mutable {
        environment_.control_loop.post(std::move(then));
    };
    runner.worker().post(
        [&runner, task = std::move(task), on_control = std::move(on_control)]() mutable {
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

void Session::Impl::stop_ring(size_t index, Continuation then) {
    Vring& ring = rings_[index];
    ring.started = false;
    ring.descriptors.kick = nullptr;
    if (ring.runner == nullptr) {
        ring.broken = false;
        then();
        return;
    }
    QueueRunner& runner = *ring.runner;
    auto on_control = [this, index, then = std::move(then)](VringBase base) mutable {
        environment_.control_loop.post([this, index, base, then = std::move(then)]() mutable {
            Vring& stopped = rings_[index];
            stopped.base = base;
            stopped.broken = false;
            stopped.runner.reset();
            then();
        });
    };
    runner.worker().post([&runner, on_control = std::move(on_control)]() mutable {
        runner.stop(std::move(on_control));
    });
}

void Session::Impl::stop_all_rings(Continuation then) {
    auto outstanding = std::make_shared<size_t>(rings_.size());
    auto shared_then = std::make_shared<Continuation>(std::move(then));
    for (size_t index = 0; index < rings_.size(); ++index) {
        stop_ring(index, [outstanding, shared_then] {
            if (--*outstanding == 0) {
                (*shared_then)();
            }
        });
    }
}

bool Session::Impl::any_ring_running() const {
    for (const Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            return true;
        }
    }
    return false;
}

void Session::Impl::on_ring_broken(size_t index, RingError error) {
    environment_.counters.rings_broken.add(error);
    rings_[index].broken = true;
    broken_log_.log(LogLevel::kWarning,
                    "{}: ring {} stopped, the guest's driver broke it: {}",
                    identity_.name,
                    index,
                    describe(error));
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
           !memory_->regions().empty();
}

std::optional<Refusal> Session::Impl::start_ring(size_t index, Continuation then) {
    Vring& ring = rings_[index];
    auto queue = Virtqueue::create(queue_config(ring), base_of(ring), memory_);
    if (!queue) {
        switch (queue.error()) {
            case VirtqueueSetupError::kSize:
                return Refusal::kRingSize;
            case VirtqueueSetupError::kBase:
                return Refusal::kRingBase;
            case VirtqueueSetupError::kAlignment:
            case VirtqueueSetupError::kUnmapped:
                return Refusal::kRingAddress;
        }
    }
    const std::span<Worker* const> workers = environment_.workers;
    auto on_broken = [this, index](RingError error) {
        environment_.control_loop.post([this, index, error] { on_ring_broken(index, error); });
    };
    ring.runner = std::make_unique<QueueRunner>(
        QueueRunner::Environment{.device = environment_.device,
                                 .index = QueueIndex{static_cast<uint16_t>(index)},
                                 .worker = *workers[index % workers.size()],
                                 .counters = environment_.counters},
        *std::move(queue),
        ring.descriptors,
        effectively_enabled(ring),
        std::move(on_broken));
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
            } else {
                refusal_log_.log(LogLevel::kWarning,
                                 "{}: ring {} cannot start: {}",
                                 identity_.name,
                                 index,
                                 started->error().message);
                rings_[index].runner.reset();
            }
            then();
        });
    return std::nullopt;
}

void Session::Impl::start_ready_rings(std::optional<size_t> asked,
                                      std::move_only_function<void(std::optional<Refusal>)> then) {
    // One more than the rings, so that `then` runs after the loop at the earliest.
    struct Progress {
        size_t outstanding = 1;
        std::optional<Refusal> refusal;
        std::move_only_function<void(std::optional<Refusal>)> then;
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
        const auto refusal = start_ring(index, [this, index, asked, progress, one_done] {
            if (asked == index && rings_[index].runner == nullptr) {
                progress->refusal = Refusal::kDevice;
            }
            one_done();
        });
        if (!refusal) {
            continue;
        }
        if (asked == index) {
            progress->refusal = refusal;
        } else {
            refusal_log_.log(LogLevel::kWarning,
                             "{}: ring {} cannot start: {}",
                             identity_.name,
                             index,
                             describe(*refusal));
        }
        one_done();
    }
    one_done();
}

}  // namespace outrigger
