// SPDX-License-Identifier: Apache-2.0
// Moving a ring that runs to another worker of the device.
#include <utility>

#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {

/// Is the ring there, and neither about to stop nor on its way?
bool Session::Impl::is_movable(size_t index) const {
    const Vring& ring = rings_[index];
    return !close_reason_ && ring.runner != nullptr && ring.running && ring.started &&
           !ring.broken && !ring.moving;
}

std::optional<uint64_t> Session::Impl::ring_work(size_t index) const {
    if (!is_movable(index)) {
        return std::nullopt;
    }
    return rings_[index].runner->work_done();
}

void Session::Impl::move_ring(size_t index, size_t to) {
    begin_move(index, to, [this](bool moved) { placement_.on_moved(moved); });
}

void Session::Impl::move_queue(size_t index, size_t to, MoveDone done) {
    if (index >= rings_.size() || to >= environment_.workers.size() || identity_.one_worker ||
        !is_movable(index) || to == placement_.worker_of(index)) {
        done(false);
        return;
    }
    begin_move(index, to, std::move(done));
}

std::vector<std::optional<size_t>> Session::Impl::queue_workers() const {
    std::vector<std::optional<size_t>> workers(rings_.size());
    for (size_t index = 0; index < rings_.size(); ++index) {
        if (rings_[index].running) {
            workers[index] = placement_.worker_of(index);
        }
    }
    return workers;
}

void Session::Impl::begin_move(size_t index, size_t to, MoveDone done) {
    Vring& ring = rings_[index];
    ring.moving = true;
    ring.move_done = std::move(done);
    QueueRunner& runner = *ring.runner;
    runner.post([this, index, to, &runner] {
        runner.quiesce([this, index, to](bool quiet) {
            environment_.control_loop.post(
                [this, index, to, quiet] { on_quiet(index, to, quiet); });
        });
    });
}

/// The runner is still there: what it posts when it has stopped comes behind this.
void Session::Impl::on_quiet(size_t index, size_t to, bool quiet) {
    Vring& ring = rings_[index];
    // A stop that is on its way finds a quiet ring as good as any.
    if (!quiet || !ring.started || closing_) {
        end_move(index, false);
        return;
    }
    ring.runner->leave([this, index, to] {
        environment_.control_loop.post([this, index, to] { join_worker(index, to); });
    });
}

/// To where it was when the device cannot have it on the other one.
void Session::Impl::join_worker(size_t index, size_t worker) {
    const bool is_last = worker == placement_.worker_of(index);
    rings_[index].runner->join(
        *environment_.workers[worker], is_last, [this, index, worker, is_last](bool joined) {
            environment_.control_loop.post([this, index, worker, is_last, joined] {
                if (!joined && !is_last) {
                    join_worker(index, placement_.worker_of(index));
                    return;
                }
                rings_[index].runner->go_on();
                if (!is_last) {
                    placement_.set_worker(index, worker);
                }
                end_move(index, !is_last);
            });
        });
}

void Session::Impl::end_move(size_t index, bool moved) {
    Vring& ring = rings_[index];
    ring.moving = false;
    if (moved) {
        environment_.counters.queues_moved.add();
        log(LogLevel::kDebug,
            "{}: ring {} goes on on worker {}",
            identity_.name,
            index,
            placement_.worker_of(index));
    } else {
        environment_.counters.queue_moves_failed.add();
    }
    std::exchange(ring.move_done, nullptr)(moved);
}

}  // namespace outrigger
