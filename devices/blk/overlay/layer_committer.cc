// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/layer_committer.h"

#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::blk {
namespace {

LogLimiter commit_failures;

void log_failure(int os_error) {
    commit_failures.log(LogLevel::kError,
                        "blk: {}; what the guest wrote since the last commit may be lost",
                        error_from_code("cannot commit the overlay", os_error).message);
}

}  // namespace

LayerCommitter::~LayerCommitter() {
    if (!thread_.joinable()) {
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    work_.notify_one();
    thread_.join();
}

Result<void> LayerCommitter::start() {
    if (!thread_.joinable()) {
        thread_ = OUTRIGGER_TRY(start_helper_thread("blk-commit", [this] { run(); }));
    }
    return {};
}

void LayerCommitter::request(Waiter& waiter) {
    {
        const std::lock_guard lock(mutex_);
        waiting_.push(waiter);
    }
    work_.notify_one();
}

void LayerCommitter::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) {
            break;
        }
        WaiterList served = std::exchange(waiting_, {});
        lock.unlock();
        const int os_error = journal_.commit(map_);
        commits_.add();
        if (os_error != 0) {
            log_failure(os_error);
        }
        while (Waiter* const waiter = served.pop()) {
            waiter->wait_result = os_error;
            waiter->inbox->push(*waiter);
        }
        lock.lock();
    }
    if (const int os_error = journal_.close(map_); os_error != 0) {
        log_failure(os_error);
    }
}

}  // namespace outrigger::blk
