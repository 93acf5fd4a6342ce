// SPDX-License-Identifier: Apache-2.0
/// A back end inside the test program: a control thread, workers, a device, and sessions over
/// socket pairs, put together as the daemon shell does it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/session/session.h"
#include "vhost-user-backend/session/session_journal.h"

#include "tools/driver/frontend.h"

namespace outrigger::testing {

struct SessionHostOptions {
    size_t worker_count = 1;
    /// Borrowed; in place of one of our own, for devices that share it.
    Worker* worker = nullptr;
    SessionOptions session{};
    std::chrono::microseconds poll_max{0};
    /// Borrowed; sessions are to outlive the process: their journal is there under journal_name().
    DescriptorKeeper* keeper = nullptr;
};

/// The event loop that these tests use: the environment's OUTRIGGER_TEST_LOOP, "uring" or "asio".
[[nodiscard]] LoopKind loop_under_test();

/// Used from the test's thread.
class SessionHost final {
  public:
    SessionHost(Device& device, const SessionHostOptions& options);
    SessionHost(const SessionHost&) = delete;
    SessionHost& operator=(const SessionHost&) = delete;
    /// Closes the session and joins all threads.
    ~SessionHost();

    /// A front end whose other end is served. The session before it must have closed.
    [[nodiscard]] driver::Frontend connect();

    /// Why the session closed; nullopt when it has not within kPatience.
    [[nodiscard]] std::optional<CloseReason> wait_closed();

    /// Ends the session from the back end's side.
    void close_session();

    [[nodiscard]] static std::string journal_name() {
        return SessionJournal::journal_name(kJournalPrefix);
    }

    /// Runs `task` with the session, if there is one, on the control thread, and waits for it.
    void with_session(const std::function<void(Session&)>& task);

    [[nodiscard]] const SessionCounters& counters() const { return counters_; }

    [[nodiscard]] const WorkerCounters& worker_counters(size_t worker) const {
        return workers_.at(worker)->counters();
    }

    /// Runs `task` on the control thread and waits for it.
    void on_control(EventLoop::Task task);

    [[nodiscard]] EventLoop& control_loop() { return *loop_.load(); }

    /// Rounds of the control thread's loop.
    [[nodiscard]] uint64_t control_turns() const {
        return control_turns_.load(std::memory_order_relaxed);
    }

    /// Session::move_queue(): what becomes of it. False where there is no session. Any thread.
    [[nodiscard]] std::future<bool> begin_move(size_t queue, size_t worker);

    /// The same, and waits for it.
    [[nodiscard]] bool move_queue(size_t queue, size_t worker) {
        return begin_move(queue, worker).get();
    }

    /// Session::queue_workers(); empty where there is no session.
    [[nodiscard]] std::vector<std::optional<size_t>> queue_workers();

  private:
    static constexpr const char* kJournalPrefix = "outrigger.s0";

    void run_control();

    Device& device_;
    SessionHostOptions options_;
    SessionCounters counters_;
    std::vector<QueueMetrics> queue_metrics_{device_.identity().queue_count};
    SessionLogs logs_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<Worker*> worker_pointers_;

    std::atomic<uint64_t> control_turns_ = 0;
    std::atomic<EventLoop*> loop_ = nullptr;  // made and run by control_
    bool stopping_ = false;                   // control thread
    std::latch stop_posted_{1};
    std::unique_ptr<SessionJournal> journal_;  // control thread; null: without a keeper
    std::unique_ptr<Session> session_;         // control thread
    std::mutex closed_mutex_;
    std::optional<CloseReason> closed_;
    std::thread control_;
};

}  // namespace outrigger::testing
