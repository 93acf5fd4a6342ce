// SPDX-License-Identifier: Apache-2.0
/// The host's side of a network device: whatever takes frames from the guest and has frames for it.
///
/// Thread-bound to the worker of the device's queues, but for what says otherwise. Nothing waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/io/event_loop.h"

#include "devices/net/address_table.h"
#include "devices/net/frame.h"

namespace outrigger::net {

/// Whom a port tells. On the worker's thread, never from within a call of the port.
class PortEvents {
  public:
    /// next_frame() may have something, and the port does not tell again until await_frames().
    virtual void on_frames() = 0;
    /// send() may take more.
    virtual void on_room() = 0;

    /// Gives the guest frames at once, without a copy of the port's: how many of the first were
    /// taken care of, given or dropped. What is left waits at the port, as other frames do; there
    /// must be none that wait already. Borrows `frames` for the call; others may write what they
    /// point to meanwhile. On the worker's thread, also from within a call of another port.
    [[nodiscard]] virtual size_t take_frames(std::span<const Frame> /*frames*/) { return 0; }

  protected:
    ~PortEvents() = default;
};

struct PortCounters {
    Counter frames_sent;  ///< to the host
    Counter bytes_sent;
    Counter frames_received;  ///< of the host
    Counter bytes_received;
    Counter system_calls;  ///< made to send and to receive
    Counter send_waits;    ///< times frames of the guest had to wait for the host
    Counter peers;         ///< that were connected to
    Counter peers_lost;
    CounterTable<DropReason, kDropReasonCount> dropped;
};

/// What of a port follows the guest to another process.
struct PortState {
    std::vector<StationAddress> stations{};  ///< that were seen on the guest's side
    std::vector<std::byte> leases{};         ///< of a user network, in a form of its own
};

class Port {
  public:
    Port() = default;
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;
    virtual ~Port() = default;

    /// What frames that are sent may leave unfinished. Fixed for the port's life. Any thread.
    [[nodiscard]] virtual Offloads takes() const { return {}; }

    /// What the guest takes unfinished, as far as there is somebody who wants to know it: a frame
    /// that is more so is finished for the guest. Before attach(), and when it
    /// changes, by its thread.
    virtual void set_guest(const Offloads& /*taken*/) {}

    /// A queue runs, the first: what the port waits for is watched on `loop`, and told to `events`.
    virtual void attach(EventLoop& loop, PortEvents& events) = 0;
    /// The last queue stops. Connections stay.
    virtual void detach() = 0;

    /// Sends frames in their order; how many were taken care of, sent or dropped. When these are
    /// not all, on_room() comes when it is worth another attempt. Borrows `frames` for the call;
    /// guests may write what they point to meanwhile.
    [[nodiscard]] virtual size_t send(std::span<const Frame> frames) = 0;

    /// While attached: the guest takes frames on that pair of its queues from now on, or no more.
    /// A port whose host has a queue for each pair has the host use it, or no more.
    virtual void use_pair(uint16_t /*pair*/, bool /*is_used*/) {}

    /// The oldest frame for the guest. It stays the same, and its bytes valid, until
    /// drop_frame() or detach(), or until on_frames() says otherwise.
    [[nodiscard]] virtual std::optional<Frame> next_frame() = 0;
    virtual void drop_frame() = 0;

    /// on_frames() shall come when next_frame() has something, which it did not when asked last.
    virtual void await_frames() = 0;

    /// Somebody before the port has dropped a frame that was to be sent.
    virtual void count_drop(DropReason reason) { counters_.dropped.add(reason); }

    /// While attached: of the stations that were seen on the guest's side only these are there.
    virtual void forget_stations_but(std::span<const StationAddress> /*kept*/) {}

    // Control thread, while no queue runs.

    [[nodiscard]] virtual PortState save() const { return {}; }

    /// What makes no sense is left out: anybody may have written it.
    virtual void load(const PortState& /*state*/) {}

    /// Any thread.
    [[nodiscard]] virtual const PortCounters& counters() const { return counters_; }

  protected:
    PortCounters counters_;
};

}  // namespace outrigger::net
