// SPDX-License-Identifier: Apache-2.0
/// What a device knows of its connections, in memory that outlives the process where there is a
/// keeper (DeviceKeeper), so that the next one goes on with them: no connection is lost, and no
/// byte is lost or doubled. The room's README has the table of what is found at each point at which
/// a process may be killed.
///
/// Everything is done in steps: one packet, one read of a socket, one event. A step changes one
/// connection and the numbers of the whole device; commit() makes all of that true at once, before
/// the step's chain goes back to the driver. A chain that comes again from an earlier process says
/// by its sequence whether its step was committed (Numbers::receive_next, transmit_next).
///
/// Bytes that a socket takes or gives are noted by the system call that moves them (sendmmsg() and
/// recvmmsg() write msg_len behind the deed, and look at no signal in between): a Transfer says
/// what the call is for, and stays open until the next commit(). That number is all of the call
/// that the memory has: where our own is must not be seen there, nor be for others to say.
///
/// Anybody may have written what is there, and may write to it now: it is copied, and the copy
/// looked at.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include <sys/socket.h>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/result.h"

#include "devices/vsock/packet.h"

namespace outrigger::vsock {

/// One connection. Plain bytes, which another process may have written: see is_sound().
struct ConnectionRecord {
    uint64_t peer_cid;
    uint32_t peer_port;
    uint32_t guest_port;
    uint16_t type;
    uint8_t phase;  ///< 0: there is no connection; else one more than the Phase
    uint8_t reserved;
    uint32_t flags;       ///< kRecord...
    uint32_t pending;     ///< kPending...
    uint32_t generation;  ///< of the slot; also where there is no connection
    // SendCredit.
    uint32_t guest_buffer_bytes;
    uint32_t guest_forwarded;
    uint32_t sent;
    // ReceiveWindow.
    uint32_t window_bytes;
    uint32_t received;
    uint32_t forwarded;
    uint32_t told;
    // HostBacklog.
    uint32_t backlog_begin;
    uint32_t backlog_end;
    uint32_t messages_begin;
    uint32_t messages_end;
    uint32_t message_sent;  ///< bytes of the message at the front of the host's socket
    uint64_t link;          ///< LinkId, of a connection with another guest
};

inline constexpr uint32_t kRecordHasKey = 1;
inline constexpr uint32_t kRecordWantsCredit = 2;
inline constexpr uint32_t kRecordHostEnded = 4;
inline constexpr uint32_t kRecordHostDeaf = 8;
inline constexpr uint32_t kRecordHostWasReset = 16;
inline constexpr uint32_t kRecordGuestEnded = 32;
inline constexpr uint32_t kRecordGuestDeaf = 64;
inline constexpr uint32_t kRecordSendEnded = 128;
/// The guest's call was left in the other guest's mailbox.
inline constexpr uint32_t kRecordCalled = 256;
/// The message at the front of the host's socket has gone to the guest, and is to be dropped.
inline constexpr uint32_t kRecordMessageOver = 512;

/// The host's end is of AF_VSOCK.
inline constexpr uint32_t kRecordForwarded = 1024;

/// The guest has asked how much it may send.
inline constexpr uint32_t kRecordWantsRoom = 2048;

inline constexpr uint32_t kNoSlot = ~uint32_t{0};

/// What is of the whole device, and changes with its connections.
struct Numbers {
    /// Chains of the two queues whose sequence is below were dealt with.
    uint64_t receive_next = 0;
    uint64_t transmit_next = 0;
    uint32_t next_port = 0;  ///< of a connection of the host
    uint32_t flags = 0;      ///< kNumber...
    // Resets that wait: Ledger::reset().
    uint32_t resets_begin = 0;
    uint32_t resets_end = 0;
    // What an earlier process had done of steps that it did not commit. Bytes of the next chains of
    // a connection were written to its socket:
    uint32_t skip_slot = kNoSlot;
    uint32_t skip_bytes = 0;
    // Bytes of a connection's socket are in the next receive buffers, which lack their headers:
    uint32_t landed_slot = kNoSlot;
    uint32_t landed_bytes = 0;
    /// Where each queue was stopped last, as SET_VRING_BASE says it.
    std::array<uint32_t, 3> stopped_at{};
    uint32_t unused = 0;
};

/// The driver is to be told that all connections are gone.
inline constexpr uint32_t kNumberResetIsDue = 1;
/// Queue n has run since the last reset: 2 << n.
inline constexpr uint32_t kNumberHasRun = 2;
/// Queue n runs: 16 << n. When a process finds that, it goes on with the queue.
inline constexpr uint32_t kNumberRuns = 16;

/// What a system call was about to do.
enum class TransferKind : uint32_t {
    kNone,
    kGather,  ///< chains of the guest to a stream
    kDrain,   ///< the backlog of a stream to it
    kLand,    ///< a stream into receive buffers
    kWhole,   ///< all or nothing; Change says what is true when it is done
};

/// Connections that wait for a reset, of packets that belong to none, and closed ones: more than
/// there ever are.
inline constexpr uint32_t kResetSlots = 8192;

/// Thread-bound: the queues' worker, or the control thread while they do not run.
class Ledger final {
  public:
    struct Shape {
        uint32_t connections_max = 0;
        uint32_t backlog_bytes = 0;  ///< of a connection: a power of two, and whole pages
        uint64_t guest_cid = 0;      ///< whose connections these are
    };

    [[nodiscard]] static size_t bytes_for(const Shape& shape);

    /// `fd` has bytes_for(shape), zeroed or as another process left them. Nothing: that was of
    /// another version, or of another shape; begin_anew() makes it ours all the same.
    [[nodiscard]] static Result<std::optional<Ledger>> open(int fd, const Shape& shape);
    [[nodiscard]] static Result<Ledger> begin_anew(int fd, const Shape& shape);

    /// In memory that nobody else finds.
    [[nodiscard]] static Result<Ledger> create(const Shape& shape);

    /// Was it written by another process?
    [[nodiscard]] bool goes_on() const { return goes_on_; }

    [[nodiscard]] const Shape& shape() const { return shape_; }

    /// What the step at hand makes of the device's numbers; true behind the next commit().
    Numbers& numbers() { return numbers_; }

    [[nodiscard]] const Numbers& numbers() const { return numbers_; }

    /// As committed.
    [[nodiscard]] ConnectionRecord record(uint32_t slot) const;

    /// The same, on any thread, while steps are committed: to be shown, because what is read while
    /// it changes may be of two steps.
    [[nodiscard]] ConnectionRecord look_at(uint32_t slot) const;

    /// The numbers, and `record` for `slot` (kNoSlot: of no connection), are true from now on; no
    /// transfer is open.
    void commit(uint32_t slot, const ConnectionRecord& record);
    void commit();

    /// sendmsg() of `message` to `socket`, noted. As sendmsg() returns, and no more than there is
    /// in `message`.
    [[nodiscard]] ssize_t send(TransferKind kind, uint32_t slot, int socket, const msghdr& message);
    [[nodiscard]] ssize_t receive(
        TransferKind kind, uint32_t slot, int socket, const msghdr& message, int flags = 0);
    /// Before one of kWhole: what is to be committed behind it. With the numbers as they are.
    void expect(uint32_t slot, const ConnectionRecord& record);

    /// Places of resets that wait, by Numbers::resets_begin and on; one that is written there
    /// counts when resets_end is committed.
    void put_reset(uint32_t number, const PacketAddresses& addresses);
    [[nodiscard]] PacketAddresses reset(uint32_t number) const;

    /// Where the connection in `slot` keeps what its host has not taken.
    [[nodiscard]] std::span<std::byte> backlog(uint32_t slot) const;
    [[nodiscard]] std::span<uint32_t> message_ends(uint32_t slot) const;

    /// All that another process finds, for whoever must know of each store to it.
    [[nodiscard]] std::span<std::byte> memory() const {
        return {mapping_.data(), bytes_for(shape_)};
    }

  private:
    struct Places;
    struct Front;
    struct Change;

    Ledger(Mapping mapping, const Shape& shape);

    [[nodiscard]] static Places places_in(const Shape& shape);
    [[nodiscard]] Front& front() const;
    [[nodiscard]] platform::NotedMessage& noted() const;
    [[nodiscard]] std::byte* record_at(uint32_t slot) const;
    void write_change(const Change& change);
    void apply(const Change& change);
    void take_up();
    void resolve_transfer();
    [[nodiscard]] platform::NotedMessage& begin(TransferKind kind,
                                                uint32_t slot,
                                                const msghdr& message);

    Mapping mapping_;
    Shape shape_;
    Numbers numbers_;
    bool goes_on_ = false;
};

}  // namespace outrigger::vsock
