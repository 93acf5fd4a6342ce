// SPDX-License-Identifier: Apache-2.0
/// How what waits for another thread goes on: each queue has an inbox, and whoever ends the wait
/// puts the waiter into it; it goes on on the queue's worker.
#pragma once

#include <cstdint>

#include "vhost-user-backend/io/hand_over.h"
#include "vhost-user-backend/io/worker.h"

namespace outrigger::blk {

class ResumeInbox;

/// Waits for one thing at a time. Owned by its queue, which lives as long as it waits.
class Waiter {
  public:
    /// The wait is over. On the inbox's worker, from its loop.
    virtual void resume() = 0;

    ResumeInbox* inbox = nullptr;

    // Of whom it waits for, until it is resumed.
    Waiter* next = nullptr;
    uint64_t wait_word = 0;
    int wait_result = 0;  ///< 0 or an errno value

  protected:
    ~Waiter() = default;
};

/// A first-in first-out list of waiters that needs no memory of its own.
class WaiterList final {
  public:
    [[nodiscard]] bool empty() const { return first_ == nullptr; }

    void push(Waiter& waiter) {
        waiter.next = nullptr;
        (first_ == nullptr ? first_ : last_->next) = &waiter;
        last_ = &waiter;
    }

    /// Null when empty.
    Waiter* pop() {
        Waiter* const waiter = first_;
        if (waiter != nullptr) {
            first_ = waiter->next;
            waiter->next = nullptr;
        }
        return waiter;
    }

  private:
    Waiter* first_ = nullptr;
    Waiter* last_ = nullptr;
};

/// Bound to one worker; destroyed on its thread, when nothing waits.
class ResumeInbox final {
  public:
    explicit ResumeInbox(Worker& worker)
        : resumed_(worker, [](Waiter& waiter) { waiter.resume(); }) {}

    /// Any thread. The caller may not touch the waiter afterwards.
    void push(Waiter& waiter) { resumed_.give(waiter); }

  private:
    HandOver<Waiter> resumed_;
};

}  // namespace outrigger::blk
