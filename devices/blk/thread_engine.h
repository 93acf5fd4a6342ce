// SPDX-License-Identifier: Apache-2.0
/// The engine for hosts without io_uring, and for the calls that io_uring does not have: a bounded
/// pool of threads that make blocking system calls. Results go back to each queue's worker.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/hand_over.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/io_engine.h"

namespace outrigger::blk {

class ThreadEngine;

/// The threads of one image, shared by its queues and files. Any thread.
class IoThreadPool final {
  public:
    /// Starts `thread_count` (> 0) helper threads.
    [[nodiscard]] static Result<std::unique_ptr<IoThreadPool>> start(size_t thread_count);

    IoThreadPool(const IoThreadPool&) = delete;
    IoThreadPool& operator=(const IoThreadPool&) = delete;
    /// Joins. Nothing may be under way.
    ~IoThreadPool();

    void submit(IoOperation& operation, ThreadEngine& engine);

  private:
    struct Job {
        IoOperation* operation;
        ThreadEngine* engine;
    };

    IoThreadPool() = default;

    void run();

    std::mutex mutex_;
    std::condition_variable job_waiting_;  // also signalled when stopping_ is set
    std::vector<Job> jobs_;                // a ring buffer: guarded by mutex_, grows to its use
    size_t jobs_begin_ = 0;
    size_t jobs_count_ = 0;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

/// Makes the call, blocking; returns its result or -errno.
[[nodiscard]] int32_t run_operation(int fd, IoOperation& operation);

/// One queue's end of the pool, for one file.
class ThreadEngine final : public IoEngine {
  public:
    /// What a thread does with an operation.
    using Call = int32_t (*)(int fd, IoOperation& operation);

    /// All are borrowed. `call` may be another one for work that is no system call.
    ThreadEngine(IoThreadPool& pool, Worker& worker, int fd, Call call = run_operation)
        : pool_(pool), fd_(fd), call_(call), finished_(worker, complete) {}

    void submit(IoOperation& operation) override { pool_.submit(operation, *this); }

    /// Called by the pool, on its thread: makes the call and reports it to the worker.
    void run(IoOperation& operation);

  private:
    static void complete(IoOperation& operation);

    IoThreadPool& pool_;
    const int fd_;
    const Call call_;
    HandOver<IoOperation> finished_;
};

}  // namespace outrigger::blk
