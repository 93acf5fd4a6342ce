// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/waiter.h"

#include <thread>
#include <utility>

namespace outrigger::blk {

void ResumeInbox::push(Waiter& waiter) {
    bool must_post = false;
    {
        const std::lock_guard lock(mutex_);
        resumed_.push(waiter);
        must_post = !std::exchange(delivery_posted_, true);
        if (must_post) {
            posting_.store(true, std::memory_order_relaxed);
        }
    }
    // Without `must_post` a delivery on its way takes the waiter, and with it perhaps the last
    // reason for this object to exist: touch nothing any more.
    if (must_post) {
        worker_.post([this] { deliver(); });
        // Release: pairs with the acquire in deliver(), which waits for this last access of ours.
        posting_.store(false, std::memory_order_release);
    }
}

void ResumeInbox::deliver() {
    // Acquire: pairs with the release in push(), whose thread may not have left post() yet, and
    // what is resumed here may end worker and queue. It has a handful of instructions to go.
    while (posting_.load(std::memory_order_acquire)) {
        std::this_thread::yield();
    }
    WaiterList resumed;
    {
        const std::lock_guard lock(mutex_);
        resumed = std::exchange(resumed_, {});
        delivery_posted_ = false;
    }
    while (Waiter* const waiter = resumed.pop()) {
        waiter->resume();
    }
}

}  // namespace outrigger::blk
