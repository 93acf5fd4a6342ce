// SPDX-License-Identifier: Apache-2.0
/// One front end's connection to one device: the vhost-user state machine.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/base/userfault.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/session/counters.h"
#include "vhost-user-backend/session/session_logs.h"
#include "vhost-user-backend/virtq/intake_gate.h"
#include "vhost-user-backend/virtq/queue_metrics.h"

namespace outrigger {

class SavedSession;
class SessionJournal;

/// Is what a device says of itself possible? For programs, before the first front end comes: a
/// session takes it for granted. An error is one sentence for the author of the device.
[[nodiscard]] Result<void> check_device(const Device& device);

struct SessionOptions {
    /// A front end that begins a message must finish it, and take a reply, within this time.
    std::chrono::milliseconds message_timeout{10'000};
    /// Memory regions that ADD_MEM_REG may add up to (GET_MAX_MEM_SLOTS).
    size_t memory_slots = 509;
    /// A transfer of the device's state (SET_DEVICE_STATE_FD) must end within this time.
    std::chrono::milliseconds state_timeout{30'000};
    /// Refuse memory whose file could be truncated while it is mapped.
    bool require_sealed = false;
    /// Somebody keeps a buffer in which rings note what they have in flight, for a successor of
    /// this process, also when the front end does not.
    bool notes_in_flight = false;
    /// Queues go to other workers as they have work; without it they stay where they started.
    bool balances_queues = false;
    /// How long requests take is measured.
    bool measures_latency = false;
    /// Where userfaultfds come from (borrowed): postcopy migration is offered, and VIRTIO's
    /// ACCESS_PLATFORM is not. Null: the other way round.
    const UserfaultSource* userfaults = nullptr;
};

/// Thread-bound: control thread. Requests are answered in order; one that must wait for a worker
/// (GET_VRING_BASE drains its ring) holds back the next, while the loop serves other sessions.
class Session final {
  public:
    struct Environment {
        Device& device;
        EventLoop& control_loop;
        std::span<Worker* const> workers;  ///< queue i first starts on worker i modulo their count
        SessionCounters& counters;
        /// One of each queue.
        std::span<QueueMetrics> queue_metrics;
        SessionLogs& logs;
        /// A keeper is there, and the session is to outlive this process; else null. It has no
        /// other session, and lives longer.
        SessionJournal* journal = nullptr;
        /// Lives longer; null: it is always open. on_gate_changed() follows each change.
        const IntakeGate* gate = nullptr;
        /// is_quiet() may have become true.
        std::function<void()> on_quiet = [] {};
    };

    using OnClosed = std::move_only_function<void(CloseReason)>;

    /// Begins to serve `socket`. One without a name lets a front end keep its session although it
    /// is gone, by its own end of it as the back-end channel: so give an end of socketpair() a name
    /// first (on Linux by bind() with nothing but the family). `on_closed` is called once, from the
    /// loop, after every ring has stopped, every chain is back, the device is reset and the memory
    /// is unmapped; the session may then be destroyed.
    Session(const Environment& environment,
            UniqueFd socket,
            const SessionOptions& options,
            OnClosed on_closed);

    /// Goes on with a session that another process began on `socket`: as above from there. One that
    /// cannot go on is closed.
    Session(const Environment& environment,
            UniqueFd socket,
            const SessionOptions& options,
            OnClosed on_closed,
            SavedSession&& saved);

    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session();

    /// Ends the session from our side. `on_closed` follows, at once or later.
    void close();

    /// Another process goes on with the session at once: reads nothing more, and has all rings stop
    /// as after a crash that comes at a good moment, their requests answered or left in the
    /// in-flight buffer. `left` is called once, at once or later: false when a message is in hand,
    /// or there is no journal to go on from; nothing has changed then. Only close() may follow.
    void leave(std::move_only_function<void(bool)> left);

    /// Has queue `index` go on on another worker, by number, while it runs. `done` is called once,
    /// at once or later: false when it stays, because it does not run, is about to stop, is there
    /// or on its way already, has requests in flight for too long (20 ms), or the device refuses it
    /// there.
    void move_queue(size_t index, size_t worker, std::move_only_function<void(bool)> done);

    /// The number of the worker that each queue is on; nullopt for one that does not run.
    [[nodiscard]] std::vector<std::optional<size_t>> queue_workers() const;

    /// Of Environment::gate, which is not null.
    void on_gate_changed();

    /// With the gate closed: no ring has requests in flight, and the driver sees all answers.
    [[nodiscard]] bool is_quiet() const;

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace outrigger
