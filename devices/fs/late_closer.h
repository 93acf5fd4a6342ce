// SPDX-License-Identifier: Apache-2.0
/// Closes descriptors whose closing may wait, for a server or for a disk, on a thread of its own.
/// It is one thread, however much is given to it: whoever resets a device again and again gets no
/// more of them, and what was not closed yet counts against the budget of descriptors.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {

/// Any thread.
class LateCloser final {
  public:
    LateCloser() = default;
    LateCloser(const LateCloser&) = delete;
    LateCloser& operator=(const LateCloser&) = delete;
    /// Waits until all is closed. Nobody gives anything any more.
    ~LateCloser();

    /// Starts the thread, unless it runs. On a queue's worker.
    [[nodiscard]] Result<void> start();

    /// Waits for nothing. Before start() `fd` is closed here, which may wait: of a guest that moved
    /// here, or of an earlier process, that goes before a queue has started.
    void close(UniqueFd fd);

    /// Given, and not closed yet.
    [[nodiscard]] size_t count() const { return count_.load(std::memory_order_relaxed); }

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable is_given_;
    std::vector<UniqueFd> given_;  // guarded by mutex_, as is the rest
    std::thread thread_;
    bool stopping_ = false;
    std::atomic<size_t> count_ = 0;  // written with the mutex or by the thread, read without
};

}  // namespace outrigger::fs
