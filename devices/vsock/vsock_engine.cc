// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_engine.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/platform.h"

#include "devices/vsock/connection_record.h"

namespace outrigger::vsock {
namespace {

/// Sockets looked at in one call, and calls before the queues have their turn.
constexpr size_t kEventsMax = 64;
constexpr int kEventRoundsMax = 4;

constexpr auto kNever = std::chrono::steady_clock::time_point::max();

constexpr uint32_t kWatched = uint32_t{EPOLLIN} | uint32_t{EPOLLRDHUP} | uint32_t{EPOLLET};

/// Ports that the host's connections come from, as other hybrid sockets have them: far from what a
/// program of the guest would listen at or call.
constexpr uint32_t kHostPortMin = uint32_t{1} << 30;
constexpr uint32_t kHostPortMask = kHostPortMin - 1;

/// Whole pages, on every system.
constexpr uint32_t kBacklogBytesMin = 64 * 1024;

uint32_t random_port() {
    uint32_t number = 0;
    // Where the generator gives nothing, the first port is known: no secret hangs on it.
    (void)platform::read_kernel_entropy(std::as_writable_bytes(std::span(&number, 1)));
    return number;
}

int control_epoll(int epoll, int operation, int fd, uint32_t events, uint64_t what) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = what;
    return ::epoll_ctl(epoll, operation, fd, &event);
}

}  // namespace

VsockEngine::VsockEngine(const VsockOptions& options,
                         HostListeners listeners,
                         std::shared_ptr<Sibling> self,
                         Ledger ledger,
                         DeviceKeeper* keeper,
                         UniqueFd epoll)
    : options_(options),
      listeners_(std::move(listeners)),
      self_(std::move(self)),
      epoll_(std::move(epoll)),
      ledger_(std::move(ledger)),
      keeper_(keeper),
      table_(options.connections_max) {
    if (!ledger_.goes_on()) {
        set_next_port(random_port());
    }
}

Ledger::Shape VsockEngine::ledger_shape(const VsockOptions& options) {
    return {.connections_max = static_cast<uint32_t>(options.connections_max),
            .backlog_bytes = std::max(std::bit_ceil(options.window_bytes_max), kBacklogBytesMin),
            .guest_cid = options.guest_cid};
}

Result<std::unique_ptr<VsockEngine>> VsockEngine::create(const VsockOptions& options,
                                                         HostListeners listeners,
                                                         Keeping keeping) {
    std::shared_ptr<Sibling> self = OUTRIGGER_TRY(
        Sibling::create(options.guest_cid, options.siblings, std::move(keeping.mailbox)));
    if (!keeping.ledger) {
        keeping.ledger = OUTRIGGER_TRY(Ledger::create(ledger_shape(options)));
    }
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    std::unique_ptr<VsockEngine> engine(new VsockEngine(options,
                                                        std::move(listeners),
                                                        std::move(self),
                                                        *std::move(keeping.ledger),
                                                        keeping.keeper,
                                                        std::move(epoll)));
    if (!engine->watch_listeners()) {
        return failure(error_from_errno("cannot watch the sockets of CID " +
                                        std::to_string(options.guest_cid)));
    }
    engine->resume(std::move(keeping.found));
    return engine;
}

VsockEngine::~VsockEngine() = default;

void VsockEngine::set_next_port(uint32_t port) {
    ledger_.numbers().next_port = kHostPortMin | (port & kHostPortMask);
}

void VsockEngine::attach(EventLoop& loop) {
    OUTRIGGER_ASSERT(loop_ == nullptr);
    loop_ = &loop;
    accept_pauses_ = false;
    watch_ = loop.watch_readable(epoll_.get(), [this] { on_sockets_ready(); });
    restart_timer();
    try_again();
    end_forbidden();
}

void VsockEngine::detach() {
    loop_->unwatch(*std::exchange(watch_, std::nullopt));
    if (timer_) {
        loop_->cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    if (again_timer_) {
        loop_->cancel_timer(*std::exchange(again_timer_, std::nullopt));
    }
    release_news();
    keep_the_rest();
    loop_ = nullptr;
}

void VsockEngine::set_receive_queue(Virtqueue* queue) {
    drop_landings();  // of an earlier process, if there are any
    receive_ = queue;
    receive_found_ = false;
    update_listeners();
}

void VsockEngine::set_transmit_queue(Virtqueue* queue) {
    transmit_ = queue;
    transmit_found_ = false;
    transmit_waits_ = false;
    update_listeners();
}

void VsockEngine::wake_receive() {
    if (receive_ != nullptr) {
        receive_->request_processing();
    }
}

void VsockEngine::hold_news(std::optional<std::chrono::milliseconds> at_most) {
    release_news();
    news_are_held_ = true;
    if (at_most) {
        news_timer_ = loop_->start_timer(EventLoop::Clock::now() + *at_most, [this] {
            news_timer_.reset();
            release_news();
        });
    }
}

void VsockEngine::release_news() {
    news_are_held_ = false;
    if (news_timer_) {
        loop_->cancel_timer(*std::exchange(news_timer_, std::nullopt));
    }
    wake_receive();
}

// --- Sockets -----------------------------------------------------------------------------------

void VsockEngine::on_sockets_ready() {
    std::array<epoll_event, kEventsMax> events{};
    for (int round = 0; round < kEventRoundsMax; ++round) {
        const int count =
            ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
        for (int i = 0; i < count; ++i) {
            const epoll_event& event = events[static_cast<size_t>(i)];
            if (event.data.u64 == kStreamListener) {
                accept_clients(SocketType::kStream);
            } else if (event.data.u64 == kSeqpacketListener) {
                accept_clients(SocketType::kSeqpacket);
            } else if (event.data.u64 == kMailbox) {
                take_calls();
            } else if (event.data.u64 == kBell) {
                take_rings();
            } else if (event.data.u64 > kForwardLast - listeners_.forwards.size()) {
                accept_forwarded(kForwardLast - event.data.u64);
            } else if (Connection* const found = table_.find(ConnectionId{event.data.u64})) {
                on_socket_event(*found, event.events);
                commit_if_there(ConnectionId{event.data.u64});
            }
        }
        if (count < static_cast<int>(events.size())) {
            return;
        }
    }
}

void VsockEngine::on_socket_event(Connection& connection, uint32_t events) {
    const bool is_gone = (events & (EPOLLHUP | EPOLLERR)) != 0;
    // Each is told once.
    connection.hung_up = connection.hung_up || is_gone;
    connection.end_seen = connection.end_seen || is_gone || (events & EPOLLRDHUP) != 0;
    switch (connection.phase) {
        case Phase::kGreeting:
            read_greeting(connection);
            return;
        case Phase::kAskingGuest:
            if (is_gone) {
                end(connection, EndReason::kHostLeft);
            }
            return;
        case Phase::kCalling:
            on_sibling_answer(connection);
            return;
        case Phase::kOpen:
            if ((events & EPOLLOUT) != 0) {
                write_backlog(connection);
            }
            // Writing may have ended it.
            if (connection.phase == Phase::kOpen && (events & ~uint32_t{EPOLLOUT}) != 0) {
                connection.host_ended = connection.host_ended || (is_gone && connection.guest_deaf);
                if (is_gone && (connection.host_ended || connection.is_of_sibling())) {
                    // A guest that waits for room of another does not find out by writing.
                    on_host_deaf(connection);
                }
                if (connection.phase == Phase::kOpen && !connection.host_ended) {
                    mark_readable(connection);
                }
            }
            return;
        case Phase::kLingering:
            if ((events & EPOLLOUT) != 0 || is_gone) {
                write_backlog(connection);
            }
            return;
        case Phase::kDialing:
            on_dialled(connection, events);
            return;
        case Phase::kResetting:
            return;  // there is no socket
    }
}

void VsockEngine::watch_socket(Connection& connection) {
    if (control_epoll(epoll_.get(),
                      EPOLL_CTL_ADD,
                      connection.socket.get(),
                      kWatched,
                      static_cast<uint64_t>(connection.id)) != 0) {
        // Out of kernel memory: nobody would ever come back to it.
        end(connection, EndReason::kHostError);
    }
}

void VsockEngine::set_waits_to_write(Connection& connection, bool waits) {
    if (connection.waits_to_write != waits) {
        connection.waits_to_write = waits;
        // The socket is there, so this cannot fail.
        (void)control_epoll(epoll_.get(),
                            EPOLL_CTL_MOD,
                            connection.socket.get(),
                            kWatched | (waits ? uint32_t{EPOLLOUT} : 0),
                            static_cast<uint64_t>(connection.id));
    }
}

void VsockEngine::close_socket(Connection& connection) {
    connection.readable = false;
    connection.waits_to_write = false;
    readable_.remove(connection);
    unkept_.remove(connection);
    starved_.remove(connection);
    if (connection.socket.valid()) {
        // Of this process no other descriptor is open, but the keeper may have one.
        (void)control_epoll(epoll_.get(), EPOLL_CTL_DEL, connection.socket.get(), 0, 0);
        let_go(
            connection.id, std::move(connection.socket), std::exchange(connection.is_kept, false));
    }
}

void VsockEngine::mark_readable(Connection& connection) {
    connection.readable = true;
    if (!connection.host_ended && !connection.guest_deaf && !connection.wants_credit) {
        readable_.push_back(connection);
        wake_receive();
    }
}

// --- Deadlines ---------------------------------------------------------------------------------

void VsockEngine::set_deadline(Connection& connection, std::chrono::milliseconds delay) {
    clear_deadline(connection);
    connection.deadline = deadlines_.emplace(std::chrono::steady_clock::now() + delay, &connection);
    restart_timer();
}

void VsockEngine::clear_deadline(Connection& connection) {
    if (connection.deadline) {
        deadlines_.erase(*std::exchange(connection.deadline, std::nullopt));
    }
}

/// A timer that is early finds nothing to do, and starts the next.
void VsockEngine::restart_timer() {
    if (loop_ == nullptr || (deadlines_.empty() && questions_.empty())) {
        return;
    }
    const auto due = std::min(deadlines_.empty() ? kNever : deadlines_.begin()->first,
                              questions_.empty() ? kNever : questions_.begin()->first);
    if (timer_) {
        if (timer_due_ <= due) {
            return;
        }
        loop_->cancel_timer(*timer_);
    }
    timer_due_ = due;
    timer_ = loop_->start_timer(due, [this] {
        timer_.reset();
        on_deadline();
    });
}

void VsockEngine::on_deadline() {
    const auto now = std::chrono::steady_clock::now();
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
        Connection& connection = *deadlines_.begin()->second;
        const ConnectionId id = connection.id;
        clear_deadline(connection);
        expire(connection);
        commit_if_there(id);
    }
    ask_again();
    if (accept_pauses_) {
        accept_pauses_ = false;
        update_listeners();
    }
    restart_timer();
}

void VsockEngine::expire(Connection& connection) {
    switch (connection.phase) {
        case Phase::kGreeting:
            drop_client(connection, EndReason::kNoGreeting);
            return;
        case Phase::kAskingGuest:
        case Phase::kCalling:
            end(connection, EndReason::kGuestSilent);
            return;
        case Phase::kDialing:
            if (connection.socket.valid()) {
                // Started, and nobody has answered.
                note_dial(DialOutcome::kBusy, 0, name_of_called(connection));
                begin_reset(connection);
            } else if (connection.key.peer_cid == kHostCid) {
                dial_host(connection);
            } else {
                call_sibling(connection);
            }
            return;
        case Phase::kOpen:
            // Both ends are done, and what is left would hold the guest up.
            if (!connection.is_written()) {
                linger(connection);
                return;
            }
            begin_reset(connection);
            return;
        case Phase::kLingering:
            linger_on(connection);
            return;
        case Phase::kResetting:
            return;  // has no deadline
    }
}

// --- The end of connections --------------------------------------------------------------------

std::string VsockEngine::name_of(const Connection& connection) const {
    return fmt::format("{}:{} and port {} of the guest",
                       connection.key.peer_cid,
                       connection.key.peer_port,
                       connection.key.guest_port);
}

void VsockEngine::note_end(EndReason reason, std::string_view what) {
    counters_.ended.add(reason);
    // What a guest does wrong, and what the host does, are of equal interest to who looks for why a
    // connection failed; neither can fill the log.
    limiters_[static_cast<size_t>(reason)].log(
        LogLevel::kWarning, "vsock cid {}: {}: {}", options_.guest_cid, what, describe(reason));
}

void VsockEngine::owe(Connection& connection, uint32_t pending) {
    connection.pending |= pending;
    owing_.push_back(connection);
    wake_receive();
}

/// The connection failed: both ends are told.
void VsockEngine::end(Connection& connection, EndReason reason) {
    switch (connection.phase) {
        case Phase::kGreeting:
            drop_client(connection, reason);
            return;
        case Phase::kLingering:
            // The guest has forgotten it; what it sent is lost.
            note_end(reason, name_of(connection));
            destroy(connection);
            return;
        case Phase::kResetting:
            return;
        case Phase::kAskingGuest:
        case Phase::kDialing:
        case Phase::kCalling:
        case Phase::kOpen:
            break;
    }
    note_end(reason, name_of(connection));
    begin_reset(connection);
}

/// The guest is to be told by RST, as soon as it has a buffer, and nothing else is left. That is
/// also how it learns that all has arrived, where both sides have closed.
void VsockEngine::begin_reset(Connection& connection) {
    clear_deadline(connection);
    leave_sibling(connection);
    connection.backlog.clear();
    connection.phase = Phase::kResetting;
    connection.pending = 0;
    owe(connection, kPendingReset);
    commit(connection);
    release_backlog(connection, 0);
    close_socket(connection);
}

/// The guest need not wait for what a slow program of the host has not read yet.
void VsockEngine::linger(Connection& connection) {
    add_reset({.source_cid = options_.guest_cid,
               .destination_cid = connection.key.peer_cid,
               .source_port = connection.key.guest_port,
               .destination_port = connection.key.peer_port,
               .type = static_cast<uint16_t>(connection.key.type)});
    linger_untold(connection);
}

void VsockEngine::linger_untold(Connection& connection) {
    leave_sibling(connection);
    owing_.remove(connection);
    readable_.remove(connection);
    table_.drop_key(connection);
    connection.pending = 0;
    connection.phase = Phase::kLingering;
    connection.lingering_unread = SIZE_MAX;
    linger_on(connection);
}

/// For as long as the host's program goes on reading, however slowly. Its socket takes more only
/// when much of what the kernel keeps was read, so that is looked at, too.
void VsockEngine::linger_on(Connection& connection) {
    const HostBacklog::Position& at = connection.backlog.position();
    const size_t unread = unread_bytes(connection.socket.get());
    if (at == connection.lingering_at && unread >= connection.lingering_unread) {
        end(connection, EndReason::kHostSlow);
        return;
    }
    connection.lingering_at = at;
    connection.lingering_unread = unread;
    set_deadline(connection, options_.linger_timeout);
}

void VsockEngine::destroy(Connection& connection) {
    const ConnectionId id = connection.id;
    if (gathered_.connection == &connection) {
        gathered_.connection = nullptr;
    }
    clear_deadline(connection);
    leave_sibling(connection);
    owing_.remove(connection);
    readable_.remove(connection);
    if (connection.phase == Phase::kGreeting) {
        --greetings_;
    }
    Numbers& numbers = ledger_.numbers();
    if (numbers.skip_slot == slot_of(id)) {
        numbers.skip_slot = kNoSlot;
    }
    if (numbers.landed_slot == slot_of(id)) {
        numbers.landed_slot = kNoSlot;
    }
    ledger_.commit(slot_of(id), record_of_none(id));
    connection.backlog.clear();
    release_backlog(connection, 0);
    close_socket(connection);
    counters_.connections_gone.add();
    table_.destroy(connection);
    update_listeners();
}

// --- Resets of nothing -------------------------------------------------------------------------

size_t VsockEngine::resets_waiting() const {
    const Numbers& numbers = ledger_.numbers();
    return numbers.resets_end - numbers.resets_begin;
}

/// One that answers a packet with these addresses.
void VsockEngine::add_reset(const PacketAddresses& answered) {
    if (resets_waiting() < kResetSlots / 2) {
        ledger_.put_reset(ledger_.numbers().resets_end++, answered);
        wake_receive();
    }
}

void VsockEngine::forget_guest() {
    table_.for_each([this](Connection& connection) { destroy(connection); });
    Numbers& numbers = ledger_.numbers();
    numbers = {.next_port = numbers.next_port, .flags = numbers.flags};
    commit_numbers();
    is_returning_ = false;
    update_listeners();
}

void VsockEngine::reset_later(std::span<const ConnectionKey> keys) {
    for (const ConnectionKey& key : keys) {
        if (table_.is_full()) {
            add_reset({.source_cid = options_.guest_cid,
                       .destination_cid = key.peer_cid,
                       .source_port = key.guest_port,
                       .destination_port = key.peer_port,
                       .type = static_cast<uint16_t>(key.type)});
            continue;
        }
        Connection& connection = begin_connection();
        connection.phase = Phase::kResetting;
        if (table_.set_key(connection, key)) {
            owe(connection, kPendingReset);
            commit(connection);
        } else {
            destroy(connection);  // named twice
        }
    }
    commit_numbers();
}

size_t VsockEngine::reset_later_max() const {
    return options_.connections_max + kResetSlots / 2;
}

std::unique_ptr<Connection> VsockEngine::make_connection(ConnectionId id) const {
    return std::make_unique<Connection>(
        id,
        ReceiveWindow(options_.window_bytes, options_.window_bytes_max),
        HostBacklog(ledger_.backlog(slot_of(id)), ledger_.message_ends(slot_of(id))));
}

Connection& VsockEngine::begin_connection() {
    counters_.connections.add();
    return table_.add(make_connection(table_.next_id()));
}

std::vector<ConnectionKey> VsockEngine::open_keys() {
    std::vector<ConnectionKey> keys;
    table_.for_each([&](const Connection& connection) {
        if (connection.has_key) {
            keys.push_back(connection.key);
        }
    });
    return keys;
}

}  // namespace outrigger::vsock
