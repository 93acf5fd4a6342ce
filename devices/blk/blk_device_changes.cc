// SPDX-License-Identifier: Apache-2.0
// How a change reaches every queue: as a task on its worker, and back.
#include <memory>
#include <mutex>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/blk_device.h"

namespace outrigger::blk {

/// Lives as long as a queue has something of it to do; its end is told on the control thread.
class BlkDevice::Round final {
  public:
    Round(EventLoop& control_loop, std::move_only_function<void(Result<void>)> done)
        : control_loop_(control_loop), done_(std::move(done)) {}

    Round(const Round&) = delete;
    Round& operator=(const Round&) = delete;

    ~Round() {
        control_loop_.post([done = std::move(done_), outcome = std::move(outcome_)]() mutable {
            done(std::move(outcome));
        });
    }

    /// One of the reasons is enough. Any thread.
    void fail(Error error) {
        const std::lock_guard lock(mutex_);
        outcome_ = failure(std::move(error));
    }

  private:
    EventLoop& control_loop_;
    std::move_only_function<void(Result<void>)> done_;
    std::mutex mutex_;
    Result<void> outcome_;  // guarded by mutex_, but for the destructor
};

void BlkDevice::on_queues(const QueueTask& task, const std::shared_ptr<Round>& round) {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < workers_.size(); ++i) {
        if (Worker* const worker = workers_[i]) {
            worker->post([this, i, worker, task, round] {
                if (BlkQueue* const queue = queue_on(*worker, i)) {
                    task(*queue, round);
                }
            });
        }
    }
}

/// On the worker's thread: the queue, if it is there. One that has left since it was told of a
/// change took the device as it is now when it started elsewhere.
BlkQueue* BlkDevice::queue_on(const Worker& worker, size_t number) {
    const std::lock_guard lock(mutex_);
    return workers_[number] == &worker ? queues_[number].get() : nullptr;
}

namespace {

std::move_only_function<void(Result<void>)> without_outcome(BlkDevice::Done done) {
    return [done = std::move(done)](const Result<void>&) mutable { done(); };
}

}  // namespace

void BlkDevice::apply(const BlkSettings& settings, EventLoop& control_loop, Done done) {
    {
        const std::lock_guard lock(mutex_);
        settings_ = settings;
    }
    on_queues([settings](BlkQueue& queue, const std::shared_ptr<Round>&) { queue.apply(settings); },
              std::make_shared<Round>(control_loop, without_outcome(std::move(done))));
}

void BlkDevice::wait_until_idle(EventLoop& control_loop, Done done) {
    on_queues(
        [](BlkQueue& queue, const std::shared_ptr<Round>& round) { queue.when_idle([round] {}); },
        std::make_shared<Round>(control_loop, without_outcome(std::move(done))));
}

void BlkDevice::resume(EventLoop& control_loop, Done done) {
    shared_.stop_error.store(0, std::memory_order_relaxed);
    shared_.stopped.store(false, std::memory_order_relaxed);
    on_queues([](BlkQueue& queue, const std::shared_ptr<Round>&) { queue.go_on(); },
              std::make_shared<Round>(control_loop, without_outcome(std::move(done))));
}

void BlkDevice::prepare_image(std::shared_ptr<Image> next,
                              EventLoop& control_loop,
                              std::move_only_function<void(Result<void>)> done) {
    {
        const std::lock_guard lock(mutex_);
        next_image_ = next;
        next_image_refusal_.reset();
    }
    on_queues(
        [next](BlkQueue& queue, const std::shared_ptr<Round>& round) {
            if (auto opened = queue.prepare_next_image(*next); !opened) {
                round->fail(std::move(opened).error());
            }
        },
        std::make_shared<Round>(control_loop, std::move(done)));
}

void BlkDevice::use_next_image(EventLoop& control_loop,
                               std::move_only_function<void(Result<void>)> done) {
    const auto round = std::make_shared<Round>(control_loop, std::move(done));
    {
        const std::lock_guard lock(mutex_);
        if (next_image_refusal_) {
            round->fail(*next_image_refusal_);
            return;
        }
        image_ = std::exchange(next_image_, nullptr);
    }
    on_queues([](BlkQueue& queue, const std::shared_ptr<Round>&) { queue.use_next_image(); },
              round);
}

void BlkDevice::drop_next_image(EventLoop& control_loop, Done done) {
    {
        const std::lock_guard lock(mutex_);
        next_image_ = nullptr;
    }
    on_queues([](BlkQueue& queue, const std::shared_ptr<Round>&) { queue.drop_next_image(); },
              std::make_shared<Round>(control_loop, without_outcome(std::move(done))));
}

void BlkDevice::show_size(uint64_t size_bytes) {
    config_.capacity = size_bytes / kSectorBytes;
    if (frontend_ != nullptr) {
        frontend_->config_changed();
    }
}

BlkDevice::CacheState BlkDevice::cache() const {
    return {.shown_write_back = write_back(),
            .writes_through = shared_.write_through.load(std::memory_order_relaxed),
            .kept_for_driver = keep_write_through_};
}

bool BlkDevice::would_change_cache(bool write_back, bool force) const {
    const bool keeps = !force && write_back && read_write_through_;
    return write_back != write_back_wanted_ || keeps != keep_write_through_ ||
           (force && read_write_through_);
}

void BlkDevice::set_cache(bool write_back, bool force) {
    // A driver that read 0 does not flush, and what a front end read for reasons of its own may be
    // shown to a driver later. So one read is enough.
    keep_write_through_ = !force && write_back && read_write_through_;
    read_write_through_ = read_write_through_ && !force;
    write_back_wanted_ = write_back;
    update_write_through();
    if (frontend_ != nullptr) {
        frontend_->config_changed();
    }
}

}  // namespace outrigger::blk
