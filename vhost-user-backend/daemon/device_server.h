// SPDX-License-Identifier: Apache-2.0
/// Serves one device to one front end after the other.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/kept_session.h"
#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/session/counters.h"
#include "vhost-user-backend/session/session.h"
#include "vhost-user-backend/virtq/intake_gate.h"
#include "vhost-user-backend/virtq/queue_metrics.h"

namespace outrigger {

/// Where a front end comes from: exactly one of the two.
struct Endpoint {
    std::optional<ListeningSocket> listener;
    UniqueFd connection;
};

/// Thread-bound: control thread.
class DeviceServer final {
  public:
    struct Environment {
        EventLoop& loop;
        Device& device;
        std::span<Worker* const> workers;
        SessionOptions session;
        bool exit_on_disconnect = false;
        bool starts_drained = false;  ///< as after drain()
        std::string label;            ///< for log lines: "rng /run/rng.sock"
        /// Outlives the server; null: there is none.
        DescriptorKeeper* keeper = nullptr;
        std::vector<std::string> listener_names{};  ///< under which it keeps the listening socket
        /// What the process before left cannot be gone on with: is called before that session ends.
        std::function<void()> on_not_restored = [] {};
        /// connected() has changed.
        std::function<void()> on_front_end = [] {};
    };

    /// `on_finished` is called once, from the loop, when no front end is served or will be.
    /// `kept`: how sessions outlive the process, and the one that the process before left.
    DeviceServer(Environment environment,
                 Endpoint endpoint,
                 KeptSession kept,
                 std::move_only_function<void()> on_finished);
    DeviceServer(const DeviceServer&) = delete;
    DeviceServer& operator=(const DeviceServer&) = delete;
    ~DeviceServer();

    /// Lets front ends in, or goes on with the one that the process before had. `on_begun` is
    /// called once, at once or later, when that is done, or cannot be.
    void start(std::move_only_function<void()> on_begun = [] {});

    /// Session::leave(); lets nobody in any more, and leaves the socket to the next process.
    void leave(std::move_only_function<void(bool)> left);

    /// Stops listening, removes the socket and closes the session; on_finished() follows.
    void shut_down();

    /// Begins no more requests, whoever the front end is, until resume(). `drained` is called once,
    /// at once or later: with true when none is in flight, with false when resume() came before.
    void drain(std::move_only_function<void(bool)> drained);

    /// Goes on after drain().
    void resume();

    enum class Intake : uint8_t {
        kOpen,
        kDraining,  ///< requests are in flight, and no more are begun
        kDrained,   ///< none is
    };

    [[nodiscard]] Intake intake() const;

    /// Is a front end there?
    [[nodiscard]] bool connected() const { return session_ != nullptr; }

    [[nodiscard]] const SessionCounters& counters() const { return counters_; }

    [[nodiscard]] std::span<const QueueMetrics> queue_metrics() const { return queue_metrics_; }

    [[nodiscard]] std::span<Worker* const> workers() const { return environment_.workers; }

    /// The number of the worker that each queue is on, if it runs; empty without a front end.
    [[nodiscard]] std::vector<std::optional<size_t>> queue_workers() const {
        return session_ != nullptr ? session_->queue_workers()
                                   : std::vector<std::optional<size_t>>();
    }

  private:
    void listen();
    void stop_listening();
    void on_connection();
    void wait_after_failed_accept(int os_error);
    void serve(UniqueFd connection);
    void go_on();
    [[nodiscard]] Session::Environment session_environment();
    void close_listener();
    void tell_drained(bool drained);
    void on_quiet();
    void serve_next();
    void limit_waiting(EventLoop::Clock::duration delay);
    void on_waiting_timer();
    void accept_waiting();
    void stop_limiting();
    void on_closed(CloseReason reason);
    void finish();

    Environment environment_;
    Endpoint endpoint_;
    std::vector<QueueMetrics> queue_metrics_;
    KeptSession kept_;
    std::move_only_function<void()> on_begun_;
    std::move_only_function<void()> on_finished_;
    SessionCounters counters_;
    SessionLogs logs_;
    IntakeGate gate_;  // sessions use it
    std::vector<std::move_only_function<void(bool)>> waiting_for_quiet_;
    LogLimiter session_log_{20};  // a front end may come and go as often as it likes
    std::unique_ptr<Session> session_;
    std::optional<WatchId> listen_watch_;
    std::optional<TimerId> accept_timer_;
    std::optional<TimerId> waiting_timer_;
    std::vector<UniqueFd> waiting_;  // accepted and not read, in the order in which they came
    size_t overdue_ = 0;             // the first of them, which are to be closed
    bool shutting_down_ = false;
};

}  // namespace outrigger
