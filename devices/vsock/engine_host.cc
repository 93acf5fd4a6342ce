// SPDX-License-Identifier: Apache-2.0
// The engine's programs of the host: those that connect to the guest, and those that the guest
// connects to.
#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/platform.h"

#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/hybrid_request.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

/// Programs let in before anybody else has a turn.
constexpr int kAcceptsMax = 16;
constexpr int kPortAttemptsMax = 1 << 12;
/// Of what a program that is sent away has said, so much is read. One that has said more sees
/// ECONNRESET.
constexpr size_t kSaidBytesMax = 64 * 1024;
constexpr int kSaidReadsMax = 16;

void watch_listener(int epoll, int fd, bool on, uint64_t what) {
    epoll_event event{};
    event.events = on ? uint32_t{EPOLLIN} : 0;
    event.data.u64 = what;
    // Where the descriptor is there this cannot fail.
    (void)::epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

}  // namespace

bool VsockEngine::watch_listeners() {
    const auto add = [this](int fd, uint64_t what) {
        epoll_event event{};
        event.data.u64 = what;
        return fd < 0 || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
    };
    bool added = epoll_.valid() && add(listeners_.stream.fd.get(), kStreamListener) &&
                 add(listeners_.seqpacket.fd.get(), kSeqpacketListener) &&
                 add(self_->mailbox_fd(), kMailbox) && add(self_->bell_fd(), kBell);
    watch_listener(epoll_.get(), self_->bell_fd(), true, kBell);
    for (size_t i = 0; i < listeners_.forwards.size(); ++i) {
        added = added && add(listeners_.forwards[i].get(), kForwardLast - i);
    }
    return added;
}

/// Until the guest's driver is up, and while there is no room, programs of the host wait in the
/// kernel's backlog, which is bounded.
void VsockEngine::update_listeners() {
    const bool runs = receive_ != nullptr && transmit_ != nullptr;
    const bool takes_forwards = runs && !accept_pauses_ && !table_.is_full();
    const bool listens = takes_forwards && greetings_ < kGreetingsMax;
    if (std::exchange(listening_, listens) != listens) {
        watch_listener(epoll_.get(), listeners_.stream.fd.get(), listens, kStreamListener);
        watch_listener(epoll_.get(), listeners_.seqpacket.fd.get(), listens, kSeqpacketListener);
    }
    if (std::exchange(takes_forwards_, takes_forwards) != takes_forwards) {
        for (size_t i = 0; i < listeners_.forwards.size(); ++i) {
            watch_listener(
                epoll_.get(), listeners_.forwards[i].get(), takes_forwards, kForwardLast - i);
        }
    }
    // Calls of other guests are answered at once, also where there is no room for them.
    if (std::exchange(takes_calls_, runs) != runs) {
        watch_listener(epoll_.get(), self_->mailbox_fd(), runs, kMailbox);
    }
    is_returning_ = is_returning_ && !runs;
    self_->set_up(runs || is_returning_);
}

/// Invalid: nobody waits, or nobody can be let in for a while.
UniqueFd VsockEngine::accept_from(int listener) {
    UniqueFd socket = platform::accept_connection(listener);
    if (!socket.valid() &&
        (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
        accept_pauses_ = true;
        update_listeners();
        timer_due_ = {};
        if (timer_) {
            loop_->cancel_timer(*timer_);
        }
        timer_ = loop_->start_timer(EventLoop::Clock::now() + kAcceptPause, [this] {
            timer_.reset();
            on_deadline();
        });
    }
    return socket;
}

void VsockEngine::accept_clients(SocketType type) {
    const ListeningSocket& listener =
        type == SocketType::kStream ? listeners_.stream : listeners_.seqpacket;
    for (int i = 0; i < kAcceptsMax && listening_; ++i) {
        UniqueFd socket = accept_from(listener.fd.get());
        if (!socket.valid()) {
            return;
        }
        prepare_connection(socket.get(), type);
        Connection& connection = begin_connection();
        const ConnectionId id = connection.id;
        connection.key.type = type;
        adopt(connection, std::move(socket));
        ++greetings_;
        set_deadline(connection, options_.greeting_timeout);
        update_listeners();
        watch_socket(connection);
        commit_if_there(id);
    }
}

/// Takes the first line and not a byte behind it, and nothing before it is whole.
void VsockEngine::read_greeting(Connection& connection) {
    std::array<std::byte, kHybridLineBytesMax> bytes{};
    constexpr bool kPeek = true;
    const ssize_t seen = receive_bytes(connection.socket.get(), bytes, kPeek);
    if (seen < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (seen <= 0) {
        drop_client(connection, EndReason::kHostLeft);
        return;
    }
    const auto there = std::span(bytes).first(static_cast<size_t>(seen));
    const auto newline = std::ranges::find(there, std::byte{'\n'});
    const bool is_whole = newline != there.end();
    if (!is_whole && connection.is_stream()) {
        if (there.size() == bytes.size()) {
            drop_client(connection, EndReason::kBadGreeting);
        } else if (connection.end_seen) {
            drop_client(connection, EndReason::kHostLeft);
        }
        return;
    }
    std::string line;
    for (const std::byte byte : there.first(static_cast<size_t>(newline - there.begin()))) {
        line.push_back(static_cast<char>(byte));
    }
    const size_t taken = line.size() + (is_whole ? 1 : 0);
    if (!connection.is_stream()) {
        // What is behind the line would go with its message.
        const std::optional<NextMessage> message = next_message(connection.socket.get());
        if (!message || message->bytes != taken) {
            drop_client(connection, EndReason::kBadGreeting);
            return;
        }
    }
    ask_guest(connection, line, taken);
}

/// `taken`: bytes of the socket that were its line.
void VsockEngine::ask_guest(Connection& connection, std::string_view line, size_t taken) {
    const std::optional<uint32_t> port = parse_connect_line(line);
    if (!port) {
        drop_client(connection, EndReason::kBadGreeting);
        return;
    }
    if (!(connection.is_stream() ? types_.stream : types_.seqpacket)) {
        drop_client(connection, EndReason::kTypeNotNegotiated);
        return;
    }
    take_host_port(connection, *port);
    --greetings_;
    connection.phase = Phase::kAskingGuest;
    set_deadline(connection, options_.guest_answer_timeout);
    owe(connection, kPendingRequest);
    update_listeners();
    if (!take_whole(connection, taken)) {
        end(connection, EndReason::kHostLeft);
    }
}

/// One after the other, so that a pair of ports is not used again soon: packets of its last
/// connection may still be under way in the guest.
void VsockEngine::take_host_port(Connection& connection, uint32_t guest_port) {
    ConnectionKey key{.peer_cid = kHostCid,
                      .peer_port = 0,
                      .guest_port = guest_port,
                      .type = connection.key.type};
    for (int attempt = 0; attempt < kPortAttemptsMax && !connection.has_key; ++attempt) {
        key.peer_port = next_port();
        set_next_port(key.peer_port + 1);
        (void)table_.set_key(connection, key);
    }
    OUTRIGGER_ASSERT(connection.has_key);  // there are fewer connections than attempts
}

/// Programs of the host that are connected already, as AF_VSOCK sees it, to a port of the guest.
void VsockEngine::accept_forwarded(size_t listener) {
    for (int i = 0; i < kAcceptsMax && takes_forwards_; ++i) {
        UniqueFd socket = accept_from(listeners_.forwards[listener].get());
        if (!socket.valid()) {
            return;
        }
        if (!types_.stream) {
            note_end(EndReason::kTypeNotNegotiated, "a program of AF_VSOCK");
            continue;
        }
        Connection& connection = begin_connection();
        const ConnectionId id = connection.id;
        connection.is_forwarded = true;
        take_host_port(connection, options_.forward.listen_at[listener]);
        connection.phase = Phase::kAskingGuest;
        adopt(connection, std::move(socket));
        set_deadline(connection, options_.guest_answer_timeout);
        update_listeners();
        owe(connection, kPendingRequest);
        watch_socket(connection);
        commit_if_there(id);
    }
}

/// Takes so many bytes off the socket, with what has become of the connection by that: either
/// both are done for another process, or none. They are there.
bool VsockEngine::take_whole(Connection& connection, size_t bytes) {
    std::array<std::byte, kHybridLineBytesMax> taken{};
    iovec piece{.iov_base = taken.data(), .iov_len = std::min(bytes, taken.size())};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    expect(connection);
    // A reset is told once, and then what came before it is there.
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (ledger_.receive(TransferKind::kWhole,
                            slot_of(connection.id),
                            connection.socket.get(),
                            message,
                            MSG_TRUNC) >= 0) {
            return true;
        }
        if (errno != ECONNRESET) {
            break;
        }
        connection.host_was_reset = true;
    }
    return false;
}

/// Where programs of the host connect, for the log.
std::string VsockEngine::name_of_listener() const {
    return options_.activated ? "fd-name " + options_.activated->name : options_.uds_path;
}

/// Of a program that the guest knows nothing of.
void VsockEngine::drop_client(Connection& connection, EndReason reason) {
    note_end(reason, "a program that connected to " + name_of_listener());
    // So that it sees the end, and no error because something that it said was not read.
    std::array<std::byte, kSaidBytesMax / kSaidReadsMax> said{};
    constexpr bool kPeek = false;
    for (int i = 0; i < kSaidReadsMax; ++i) {
        if (receive_bytes(connection.socket.get(), said, kPeek) <= 0) {
            break;
        }
    }
    destroy(connection);
}

void VsockEngine::confirm_to_client(Connection& connection) {
    if (connection.is_forwarded) {
        clear_deadline(connection);
        connection.phase = Phase::kOpen;
        counters_.opened_by_host.add();
        log(LogLevel::kDebug, "vsock cid {}: open: {}", options_.guest_cid, name_of(connection));
        mark_readable(connection);
        return;
    }
    std::string line = connection.is_of_sibling() ? std::string(1, kSiblingAccepts)
                                                  : make_ok_line(connection.key.peer_port);
    clear_deadline(connection);
    connection.phase = Phase::kOpen;
    iovec piece{.iov_base = line.data(), .iov_len = line.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    expect(connection);
    // Nothing was written to the socket before, so there is room.
    if (ledger_.send(
            TransferKind::kWhole, slot_of(connection.id), connection.socket.get(), message) !=
        static_cast<ssize_t>(line.size())) {
        end(connection, EndReason::kHostLeft);
        return;
    }
    counters_.opened_by_host.add();
    log(LogLevel::kDebug, "vsock cid {}: open: {}", options_.guest_cid, name_of(connection));
    // What it sent behind its first line.
    mark_readable(connection);
}

/// What the guest called has accepted.
void VsockEngine::open_to_socket(Connection& connection) {
    clear_deadline(connection);
    connection.phase = Phase::kOpen;
    counters_.opened_by_guest.add();
    log(LogLevel::kDebug, "vsock cid {}: open: {}", options_.guest_cid, name_of(connection));
    owe(connection, kPendingResponse);
}

bool VsockEngine::is_to_forward(const Connection& connection) const {
    return options_.forward.cid && connection.is_stream();
}

/// Where the guest's call goes, for the log.
std::string VsockEngine::name_of_called(const Connection& connection) const {
    if (is_to_forward(connection)) {
        return fmt::format("AF_VSOCK {}:{}", *options_.forward.cid, connection.key.peer_port);
    }
    return options_.uds_path.empty()
               ? fmt::format("{}:{} without --uds-path", kHostCid, connection.key.peer_port)
               : port_path(options_.uds_path, connection.key.peer_port);
}

void VsockEngine::dial_host(Connection& connection) {
    connection.is_forwarded = is_to_forward(connection);
    const std::string where = name_of_called(connection);
    Dialled dialled;
    if (connection.is_forwarded) {
        dialled = options_.forward.dial(*options_.forward.cid, connection.key.peer_port);
    } else if (options_.uds_path.empty()) {
        dialled.outcome = DialOutcome::kNobody;
    } else {
        dialled = dial(where, connection.key.type);
    }
    switch (dialled.outcome) {
        case DialOutcome::kConnected:
            adopt(connection, std::move(dialled.socket));
            open_to_socket(connection);
            watch_socket(connection);
            return;
        case DialOutcome::kStarted:
            // Nobody else gets it before it is connected: another process dials again.
            connection.socket = std::move(dialled.socket);
            set_deadline(connection, kDialMax);
            watch_socket(connection);
            if (connection.phase == Phase::kDialing) {
                set_waits_to_write(connection, true);
            }
            return;
        case DialOutcome::kBusy:
            if (std::chrono::steady_clock::now() < connection.dial_until) {
                set_deadline(connection, connection.dial_delay);
                connection.dial_delay = std::min(2 * connection.dial_delay, kDialRetryMax);
                return;
            }
            break;
        case DialOutcome::kNobody:
        case DialOutcome::kRefused:
            break;
    }
    note_dial(dialled.outcome, dialled.os_error, where);
    begin_reset(connection);
}

void VsockEngine::note_dial(DialOutcome outcome, int os_error, const std::string& where) {
    switch (outcome) {
        case DialOutcome::kConnected:
        case DialOutcome::kStarted:
            return;
        case DialOutcome::kBusy:
            note_end(EndReason::kHostBusy, where);
            return;
        case DialOutcome::kNobody:
            note_end(EndReason::kNoListener, where);
            return;
        case DialOutcome::kRefused:
            note_end(EndReason::kHostRefused, error_from_code(where, os_error).message);
            return;
    }
}

/// A connection to AF_VSOCK that was started is there, or is not.
void VsockEngine::on_dialled(Connection& connection, uint32_t events) {
    const int os_error = connect_error(connection.socket.get());
    if (os_error != 0 || (events & EPOLLOUT) == 0) {
        note_dial(outcome_of(os_error != 0 ? os_error : ECONNRESET),
                  os_error,
                  name_of_called(connection));
        begin_reset(connection);
        return;
    }
    UniqueFd socket = std::move(connection.socket);
    adopt(connection, std::move(socket));
    open_to_socket(connection);
    // Says what is there by now once more.
    set_waits_to_write(connection, false);
}

/// The host's program takes no more of an open connection. What it has sent still goes to the
/// guest.
void VsockEngine::on_host_deaf(Connection& connection) {
    if (connection.host_deaf) {
        return;
    }
    connection.host_deaf = true;
    const auto dropped = static_cast<uint32_t>(connection.backlog.bytes());
    connection.backlog.clear();
    set_waits_to_write(connection, false);
    on_forwarded(connection, dropped);
    if (connection.guest_ended && connection.guest_deaf) {
        begin_reset(connection);
        return;
    }
    if (connection.host_ended) {
        set_deadline(connection, options_.host_close_timeout);
    }
    owe(connection, kPendingShutdown);
}

}  // namespace outrigger::vsock
