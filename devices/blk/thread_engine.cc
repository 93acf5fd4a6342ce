// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/thread_engine.h"

#include <cerrno>
#include <memory>
#include <utility>

#include "vhost-user-backend/io/helper_thread.h"

#include "devices/blk/host_calls.h"

namespace outrigger::blk {

int32_t run_operation(int fd, IoOperation& operation) {
    const int64_t result = call_host(fd, operation);
    // The kernel transfers at most 2 GiB - 4 KiB in one call, so the result fits.
    return result < 0 ? -errno : static_cast<int32_t>(result);
}

Result<std::unique_ptr<IoThreadPool>> IoThreadPool::start(size_t thread_count) {
    auto pool = std::unique_ptr<IoThreadPool>(new IoThreadPool());
    for (size_t i = 0; i < thread_count; ++i) {
        auto thread = start_helper_thread("blk-io", [raw = pool.get()] { raw->run(); });
        if (thread) {
            pool->threads_.push_back(*std::move(thread));
        } else if (i == 0) {
            return failure(std::move(thread).error());
        } else {
            break;  // one thread is enough to go on; more only make it faster
        }
    }
    return pool;
}

IoThreadPool::~IoThreadPool() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    job_waiting_.notify_all();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

void IoThreadPool::submit(IoOperation& operation, ThreadEngine& engine) {
    {
        const std::lock_guard lock(mutex_);
        if (jobs_count_ == jobs_.size()) {
            // Full: unroll into a larger ring. Happens until the size fits the queues' limits.
            std::vector<Job> larger(jobs_.empty() ? 64 : jobs_.size() * 2);
            for (size_t i = 0; i < jobs_count_; ++i) {
                larger[i] = jobs_[(jobs_begin_ + i) % jobs_.size()];
            }
            jobs_ = std::move(larger);
            jobs_begin_ = 0;
        }
        jobs_[(jobs_begin_ + jobs_count_) % jobs_.size()] = {&operation, &engine};
        ++jobs_count_;
    }
    job_waiting_.notify_one();
}

void IoThreadPool::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        job_waiting_.wait(lock, [this] { return stopping_ || jobs_count_ > 0; });
        if (jobs_count_ == 0) {
            return;
        }
        const Job job = jobs_[jobs_begin_];
        jobs_begin_ = (jobs_begin_ + 1) % jobs_.size();
        --jobs_count_;
        lock.unlock();
        job.engine->run(*job.operation);
        lock.lock();
    }
}

void ThreadEngine::run(IoOperation& operation) {
    operation.call_result = call_(fd_, operation);
    finished_.give(operation);
}

void ThreadEngine::complete(IoOperation& operation) {
    operation.on_complete(operation.call_result, 0);
}

}  // namespace outrigger::blk
