// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/blocking_pool.h"

#include <utility>

#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::fs {

BlockingPool::~BlockingPool() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    job_waits_.notify_all();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

Result<void> BlockingPool::start(size_t thread_count) {
    const std::lock_guard lock(mutex_);
    while (threads_.size() < thread_count) {
        auto thread = start_helper_thread("fs-io", [this] { run(); });
        if (!thread && threads_.empty()) {
            return failure(std::move(thread).error());
        }
        if (!thread) {
            break;  // one is enough to go on; more only make it faster
        }
        threads_.push_back(*std::move(thread));
    }
    return {};
}

void BlockingPool::submit(BlockingJob& job) {
    {
        const std::lock_guard lock(mutex_);
        job.next = nullptr;
        (first_ == nullptr ? first_ : last_->next) = &job;
        last_ = &job;
    }
    job_waits_.notify_one();
}

void BlockingPool::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        job_waits_.wait(lock, [this] { return stopping_ || first_ != nullptr; });
        if (first_ == nullptr) {
            return;
        }
        BlockingJob& job = *std::exchange(first_, first_->next);
        lock.unlock();
        job.verdict = job.work(job.reply);
        job.finished->give(job);
        lock.lock();
    }
}

}  // namespace outrigger::fs
