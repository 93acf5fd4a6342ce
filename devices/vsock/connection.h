// SPDX-License-Identifier: Apache-2.0
/// One connection between a port of the guest and a socket of the host, at any stage of its life.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/vsock/credit.h"
#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_backlog.h"
#include "devices/vsock/intrusive_list.h"
#include "devices/vsock/packet.h"
#include "devices/vsock/sibling_link.h"

namespace outrigger::vsock {

/// Slot and generation: an id is never used again, so that it can stand in an epoll event of a
/// connection that is gone by now.
enum class ConnectionId : uint64_t {};

/// By what the guest's packets name a connection.
struct ConnectionKey {
    uint64_t peer_cid = kHostCid;  ///< the other end, as the guest sees it
    uint32_t peer_port = 0;
    uint32_t guest_port = 0;
    SocketType type = SocketType::kStream;

    friend bool operator==(const ConnectionKey&, const ConnectionKey&) = default;
};

struct ConnectionKeyHash {
    [[nodiscard]] size_t operator()(const ConnectionKey& key) const {
        const uint64_t ports = uint64_t{key.peer_port} << 32 | key.guest_port;
        const uint64_t rest = key.peer_cid << 2 | static_cast<uint64_t>(key.type);
        return std::hash<uint64_t>()(ports * 0x9e37'79b9'7f4a'7c15 ^ rest);
    }
};

enum class Phase : uint8_t {
    kGreeting,     ///< a program of the host is connected and has not said which port it wants
    kAskingGuest,  ///< the guest was sent REQUEST
    kDialing,      ///< the guest sent REQUEST; the host's backlog is full, or its answer on the way
    kCalling,      ///< the guest sent REQUEST; another guest has not answered yet
    kOpen,
    kResetting,  ///< RST is to be sent, and nothing else is left
    kLingering,  ///< the guest is done with it; what it sent still goes to the host
};

// Control packets that wait to be sent.
inline constexpr uint32_t kPendingRequest = 1;
inline constexpr uint32_t kPendingResponse = 2;
inline constexpr uint32_t kPendingReset = 4;
inline constexpr uint32_t kPendingCreditRequest = 8;
inline constexpr uint32_t kPendingCreditUpdate = 16;
inline constexpr uint32_t kPendingShutdown = 32;

struct Connection;

using Deadlines = std::multimap<std::chrono::steady_clock::time_point, Connection*>;

/// Thread-bound: the queues' worker.
struct Connection {
    Connection(ConnectionId its_id, ReceiveWindow window, HostBacklog its_backlog)
        : id(its_id), from_guest(window), backlog(its_backlog) {}

    const ConnectionId id;
    Phase phase = Phase::kGreeting;
    ConnectionKey key{};
    bool has_key = false;  ///< stands in the table of keys
    UniqueFd socket{};

    SendCredit to_guest{};
    ReceiveWindow from_guest;
    uint32_t pending = 0;  ///< kPending...

    // What is known of both ends.
    bool readable = false;        ///< the host's socket may have bytes, or its end
    bool wants_credit = false;    ///< it has, and the guest has no room; the guest was asked
    bool host_ended = false;      ///< the host will send no more; all it sent has gone to the guest
    bool host_deaf = false;       ///< the host will receive no more
    bool host_was_reset = false;  ///< the host closed without reading all
    bool end_seen = false;        ///< the host's end was announced; it comes behind all bytes
    bool hung_up = false;         ///< and that of the other direction
    bool guest_ended = false;     ///< the guest will send no more
    bool guest_deaf = false;      ///< the guest will receive no more
    bool send_ended = false;      ///< and the host's socket has been told so
    bool waits_to_write = false;  ///< EPOLLOUT is on
    bool called = false;          ///< this guest's call was left in the other guest's mailbox
    bool wants_room = false;      ///< the guest asked how much it may send, and has not sent since
    bool is_forwarded = false;    ///< the host's end is of AF_VSOCK, and hears of no CONNECT line
    bool is_kept = false;         ///< the keeper has the socket, too

    // With another guest.
    LinkId link = kNoLink;
    SiblingEnd sibling{};
    std::optional<Deadlines::iterator> question{};  ///< when the guest is asked what it has taken
    std::chrono::milliseconds question_delay = kQuestionDelay;

    HostBacklog backlog;
    // kLingering: how far the host's program was when that was looked at last.
    HostBacklog::Position lingering_at{};
    size_t lingering_unread = 0;  ///< unread_bytes()

    // A message of the host on its way to the guest. It stays in the socket until all of it went.
    std::vector<std::byte> message{};
    size_t message_sent = 0;
    bool has_message = false;  ///< `message` is it
    bool message_ends_record = false;
    bool message_over = false;  ///< it has gone, and is to be dropped from the socket

    std::chrono::steady_clock::time_point dial_until{};
    std::chrono::milliseconds dial_delay = kDialRetry;

    std::optional<Deadlines::iterator> deadline{};
    ListHook<Connection> control_hook{};
    ListHook<Connection> data_hook{};
    ListHook<Connection> keeping_hook{};
    ListHook<Connection> starved_hook{};

    [[nodiscard]] bool is_stream() const { return key.type == SocketType::kStream; }

    /// The other end is another guest of this program, and not a program of the host.
    [[nodiscard]] bool is_of_sibling() const { return key.peer_cid != kHostCid; }

    /// Nothing that could go to the host's socket waits. (Part of a message may, which cannot.)
    [[nodiscard]] bool is_written() const {
        return is_stream() ? backlog.empty() : !backlog.has_message();
    }

    /// The guest may need all that there is for the rest of a message, whose first part cannot
    /// leave before that has come; or it has said that it waits.
    [[nodiscard]] bool needs_all_room() const {
        return wants_room || (!is_stream() && backlog.has_part());
    }

    void drop_message() {
        has_message = false;
        if (message.capacity() > kPayloadBytesMax) {
            message = {};  // a connection that had a large one once does not keep the memory
        }
        message.clear();
    }
};

}  // namespace outrigger::vsock
