// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/event_loop.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/asio_loop.h"
#include "vhost-user-backend/io/uring_loop.h"

namespace outrigger {

EventLoop::EventLoop(Notifier wakeup) : wakeup_(std::move(wakeup)) {}

EventLoop::~EventLoop() = default;

void EventLoop::post(Task task) {
    {
        const std::lock_guard lock(posted_mutex_);
        posted_.push_back(std::move(task));
        // Pairs with the load of has_posted_ in run_once(): either that load sees the task, or the
        // exchange below sees that the loop may sleep. Both sides are sequentially consistent.
        has_posted_.store(true, std::memory_order_seq_cst);
    }
    if (may_sleep_.load(std::memory_order_seq_cst) &&
        may_sleep_.exchange(false, std::memory_order_seq_cst)) {
        wakeup_.signal();
    }
}

bool EventLoop::run_once(Clock::time_point until) {
    if (until != Clock::time_point::min()) {
        woke_at_ = Clock::now();
    }
    bool ran = run_due_timers();
    ran |= run_posted();
    if (ran || until == Clock::time_point::min()) {
        return turn(Clock::time_point::min()) || ran;
    }
    if (!timers_.empty()) {
        until = std::min(until, timers_.front().deadline);
    }
    // Both pair with post(), see there.
    may_sleep_.store(true, std::memory_order_seq_cst);
    const bool task_came = has_posted_.load(std::memory_order_seq_cst);
    may_wait_ = true;
    ran = turn(task_came ? Clock::time_point::min() : until);
    note_awake();
    may_sleep_.store(false, std::memory_order_relaxed);
    ran |= run_due_timers();
    ran |= run_posted();
    return ran;
}

bool EventLoop::run_posted() {
    // A stale false is harmless here: run_once() looks again before it sleeps.
    if (!has_posted_.load(std::memory_order_relaxed)) {
        return false;
    }
    {
        const std::lock_guard lock(posted_mutex_);
        running_.swap(posted_);
        has_posted_.store(false, std::memory_order_relaxed);
    }
    // What these tasks post runs on the next turn, so that they cannot starve the rest.
    for (Task& task : running_) {
        std::exchange(task, nullptr)();
    }
    running_.clear();
    return true;
}

bool EventLoop::later(const Timer& a, const Timer& b) {
    return a.deadline != b.deadline ? a.deadline > b.deadline : a.id > b.id;
}

TimerId EventLoop::start_timer(Clock::time_point deadline, Task task) {
    const TimerId id{++last_timer_id_};
    timers_.push_back({.deadline = deadline, .id = id, .task = std::move(task)});
    std::ranges::push_heap(timers_, later);
    return id;
}

void EventLoop::cancel_timer(TimerId timer) {
    // A loop has a handful of timers, so a search costs less than an index would.
    const auto found = std::ranges::find(timers_, timer, &Timer::id);
    if (found == timers_.end()) {
        return;
    }
    const Task dropped = std::move(found->task);  // destroyed when the heap is whole again
    *found = std::move(timers_.back());
    timers_.pop_back();
    std::ranges::make_heap(timers_, later);
}

bool EventLoop::run_due_timers() {
    if (timers_.empty()) {
        return false;
    }
    // Timers that are started meanwhile wait for the next turn: their ids are larger.
    const auto now = Clock::now();
    const uint64_t last_id = last_timer_id_;
    bool ran = false;
    while (!timers_.empty() && timers_.front().deadline <= now &&
           static_cast<uint64_t>(timers_.front().id) <= last_id) {
        std::ranges::pop_heap(timers_, later);
        Task task = std::move(timers_.back().task);
        timers_.pop_back();
        task();
        ran = true;
    }
    return ran;
}

void EventLoop::drop_tasks() {
    std::vector<Task> posted;
    {
        const std::lock_guard lock(posted_mutex_);
        posted.swap(posted_);
        has_posted_.store(false, std::memory_order_relaxed);
    }
    posted.clear();
    std::exchange(timers_, {}).clear();
}

Result<std::unique_ptr<EventLoop>> create_event_loop(
    LoopKind kind, const std::optional<UringOperations>& operations) {
    if (kind == LoopKind::kAsio) {
        return create_asio_loop();
    }
    if (kPortableBuild && kind == LoopKind::kAuto) {
        return create_asio_loop();
    }
    auto loop = create_uring_loop(operations);
    if (loop || kind == LoopKind::kUring) {
        return loop;
    }
    static LogLimiter limiter;
    limiter.log(LogLevel::kInfo, "{}: using the portable event loop", loop.error().message);
    return create_asio_loop();
}

}  // namespace outrigger
