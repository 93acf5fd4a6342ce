// SPDX-License-Identifier: Apache-2.0
/// Threads for the part of requests that may wait: a read of what is not in memory, fsync(), a copy
/// of a gigabyte. What they finish goes back to the worker of its queue.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/hand_over.h"
#include "vhost-user-backend/io/uring.h"
#include "vhost-user-backend/virtq/descriptor_chain.h"

#include "devices/fs/call.h"

namespace outrigger::fs {

class FsQueue;
struct BlockingJob;

/// A job that somebody outside answers, if the queue does not.
struct OutsideWait {
    std::mutex mutex;
    BlockingJob* job = nullptr;  ///< guarded by it; null: it is answered, or on its way
};

/// A request that has left its handler. Kept by its queue for the next one.
struct BlockingJob final : UringOperation {
    void on_complete(int32_t result, uint32_t cqe_flags) override;

    std::optional<DescriptorChain> chain;
    ReplyWriter reply;
    std::vector<iovec> payload;  ///< of a WRITE
    Call::Work work;
    Verdict verdict = Verdict::kAnswered;
    size_t wanted_bytes = 0;                 ///< of a read by io_uring
    std::shared_ptr<OutsideWait> outside{};  ///< null: it does not wait for anybody
    FsQueue* queue = nullptr;
    HandOver<BlockingJob>* finished = nullptr;
    BlockingJob* next = nullptr;  ///< of the pool, then of the way back
};

/// Shared by the queues of a device. Any thread.
class BlockingPool final {
  public:
    BlockingPool() = default;
    BlockingPool(const BlockingPool&) = delete;
    BlockingPool& operator=(const BlockingPool&) = delete;
    /// Nothing is under way any more.
    ~BlockingPool();

    /// Starts the threads, unless they run. On a queue's worker. One thread at least is there when
    /// this succeeds.
    [[nodiscard]] Result<void> start(size_t thread_count);

    /// Runs job.work, keeps what it returns in job.verdict, and gives the job to job.finished.
    void submit(BlockingJob& job);

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable job_waits_;
    BlockingJob* first_ = nullptr;  // guarded by mutex_, as is the rest
    BlockingJob* last_ = nullptr;   // of no meaning without a first
    std::vector<std::thread> threads_;
    bool stopping_ = false;
};

}  // namespace outrigger::fs
