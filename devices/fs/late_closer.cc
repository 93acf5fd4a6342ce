// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/late_closer.h"

#include <utility>

#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::fs {

LateCloser::~LateCloser() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    is_given_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

Result<void> LateCloser::start() {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) {
        thread_ = OUTRIGGER_TRY(start_helper_thread("fs-close", [this] { run(); }));
    }
    return {};
}

void LateCloser::close(UniqueFd fd) {
    if (!fd.valid()) {
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        if (!thread_.joinable()) {
            return;
        }
        // Relaxed, as below: a bound, by which nothing else is ordered.
        count_.fetch_add(1, std::memory_order_relaxed);
        given_.push_back(std::move(fd));
    }
    is_given_.notify_one();
}

void LateCloser::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        is_given_.wait(lock, [this] { return stopping_ || !given_.empty(); });
        if (given_.empty()) {
            return;
        }
        std::vector<UniqueFd> taken = std::exchange(given_, {});
        lock.unlock();
        for (UniqueFd& fd : taken) {
            fd.reset();
            count_.fetch_sub(1, std::memory_order_relaxed);
        }
        lock.lock();
    }
}

}  // namespace outrigger::fs
