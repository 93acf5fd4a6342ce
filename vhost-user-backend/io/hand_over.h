// SPDX-License-Identifier: Apache-2.0
/// How what other threads have finished comes back to a worker: they hand it over, and the worker
/// takes it up from its loop, all that has gathered at a time, in order.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "vhost-user-backend/io/worker.h"

namespace outrigger {

/// Bound to one worker; destroyed on its thread, when nothing is to be handed over any more.
/// `Item` has a member `Item* next`, which is ours from give() until it was taken up.
template <class Item>
class HandOver final {
  public:
    using TakeUp = void (*)(Item& item);

    /// `take_up` is called for each item on the worker's thread, from its loop; it may end this
    /// object, behind its last item.
    HandOver(Worker& worker, TakeUp take_up) : worker_(worker), take_up_(take_up) {}

    HandOver(const HandOver&) = delete;
    HandOver& operator=(const HandOver&) = delete;
    ~HandOver() = default;

    /// Any thread. The caller may not touch the item, nor this object, afterwards.
    void give(Item& item) {
        bool must_post = false;
        {
            const std::lock_guard lock(mutex_);
            item.next = nullptr;
            (first_ == nullptr ? first_ : last_->next) = &item;
            last_ = &item;
            must_post = !std::exchange(delivery_posted_, true);
            if (must_post) {
                posting_.store(true, std::memory_order_relaxed);
            }
        }
        // Without `must_post` a delivery on its way takes the item, and with it perhaps the last
        // reason for this object to exist: touch nothing any more.
        if (must_post) {
            worker_.post([this] { deliver(); });
            // Release: pairs with the acquire in deliver(), which waits for this last access.
            posting_.store(false, std::memory_order_release);
        }
    }

  private:
    void deliver() {
        // Acquire: pairs with the release in give(), whose thread may not have left post() yet, and
        // what is taken up here may end worker and this. It has a handful of instructions to go.
        while (posting_.load(std::memory_order_acquire)) {
            std::this_thread::yield();
        }
        Item* item = nullptr;
        {
            const std::lock_guard lock(mutex_);
            item = std::exchange(first_, nullptr);
            delivery_posted_ = false;
        }
        const TakeUp take_up = take_up_;
        while (item != nullptr) {
            Item* const next = std::exchange(item->next, nullptr);
            take_up(*item);
            item = next;
        }
    }

    Worker& worker_;
    const TakeUp take_up_;
    std::mutex mutex_;
    Item* first_ = nullptr;              // guarded by mutex_
    Item* last_ = nullptr;               // guarded by mutex_; of no meaning without a first
    bool delivery_posted_ = false;       // guarded by mutex_
    std::atomic<bool> posting_ = false;  // a thread is about to touch worker_ and this
};

}  // namespace outrigger
