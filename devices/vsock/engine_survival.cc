// SPDX-License-Identifier: Apache-2.0
// What the engine leaves to another process, and takes up of one: see ledger.h.
#include <algorithm>
#include <cerrno>
#include <utility>

#include <sys/mman.h>
#include <sys/socket.h>

#include <fmt/core.h>

#include "devices/vsock/connection_record.h"
#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {

std::string kept_name(ConnectionId id) {
    return fmt::format("c{}-{}", slot_of(id), generation_of(id));
}

// --- Writing -----------------------------------------------------------------------------------

void VsockEngine::commit(const Connection& connection) {
    ledger_.commit(slot_of(connection.id), record_of(connection));
}

/// The end of a step in which the connection may have gone, which was committed then.
void VsockEngine::commit_if_there(ConnectionId id) {
    if (const Connection* const connection = table_.find(id)) {
        commit(*connection);
    } else {
        commit_numbers();
    }
}

void VsockEngine::expect(const Connection& connection) {
    ledger_.expect(slot_of(connection.id), record_of(connection));
}

void VsockEngine::set_flag(uint32_t flag, bool on) {
    uint32_t& flags = ledger_.numbers().flags;
    flags = on ? flags | flag : flags & ~flag;
    commit_numbers();
}

// --- Sockets -----------------------------------------------------------------------------------

/// Before the ledger says that the connection has it.
void VsockEngine::adopt(Connection& connection, UniqueFd socket) {
    connection.socket = std::move(socket);
    if (!connection.is_stream()) {
        // The guest must be able to finish each message that its credit lets it begin.
        connection.from_guest.limit(message_bytes_max(connection.socket.get()));
    }
    if (keeper_ != nullptr && !keep_socket(connection)) {
        // Nobody waits for the keeper: until it reads, the connection ends with this process.
        unkept_.push_back(connection);
        try_again_later();
        late_limiter_.log(LogLevel::kWarning,
                          "vsock cid {}: the keeper does not read: until it does, connections that "
                          "are new end with this process",
                          options_.guest_cid);
    }
}

/// False: not now.
bool VsockEngine::keep_socket(Connection& connection) {
    const Kept kept = keeper_->try_keep_open(kept_name(connection.id), connection.socket.get());
    connection.is_kept = kept == Kept::kYes;
    if (kept == Kept::kNever) {
        keeping_limiter_.log(LogLevel::kWarning,
                             "vsock cid {}: the keeper does not take a connection's socket: it "
                             "ends with this process",
                             options_.guest_cid);
    }
    return kept != Kept::kNotNow;
}

void VsockEngine::try_again_later() {
    if (loop_ != nullptr && !again_timer_) {
        again_timer_ = loop_->start_timer(EventLoop::Clock::now() + kTryAgain, [this] {
            again_timer_.reset();
            try_again();
        });
    }
}

void VsockEngine::try_again() {
    while (!unforgotten_.empty() && keeper_->try_forget(kept_name(unforgotten_.back()))) {
        unforgotten_.pop_back();
    }
    while (!unkept_.empty() && keep_socket(*unkept_.front())) {
        unkept_.remove(*unkept_.front());
    }
    write_starved();
    if (!unforgotten_.empty() || !unkept_.empty() || !starved_.empty()) {
        try_again_later();
    }
}

/// No guest depends on this thread now, and the process may be about to leave: the keeper is waited
/// for, once.
void VsockEngine::keep_the_rest() {
    while (Connection* const connection = unkept_.front()) {
        connection->is_kept =
            keeper_->keep_open(kept_name(connection->id), connection->socket.get());
        if (!connection->is_kept) {
            return;
        }
        unkept_.remove(*connection);
    }
}

/// Behind the step in which it was let go.
void VsockEngine::let_go(ConnectionId id, UniqueFd socket, bool is_kept) {
    if (is_kept) {
        // The keeper closes its descriptor a moment later, and the program of the host should not
        // have to wait for that.
        (void)::shutdown(socket.get(), SHUT_RDWR);
        if (!keeper_->try_forget(kept_name(id))) {
            unforgotten_.push_back(id);
            try_again_later();
        }
    }
}

/// A connection that was slow once does not keep the memory for ever. Behind the commit that says
/// that it is not needed.
void VsockEngine::release_backlog(Connection& connection, size_t kept) {
    for (const std::span<std::byte> unused : connection.backlog.take_unused(kept)) {
        if (!unused.empty()) {
            (void)::madvise(unused.data(), unused.size(), MADV_REMOVE);
        }
    }
}

// --- Reading -----------------------------------------------------------------------------------

/// Where nothing of an earlier process is in hand, sequences begin anew. Before the first chain of
/// this run is popped.
void VsockEngine::find_place(Virtqueue& queue, bool& is_found, uint64_t& next) {
    if (!is_found && queue.has_memory()) {
        is_found = true;
        if (!queue.next_resumed()) {
            next = 0;
            commit_numbers();
        }
    }
}

void VsockEngine::resume(std::vector<UniqueFd> sockets) {
    sockets.resize(options_.connections_max);
    is_returning_ = ledger_.goes_on();
    for (uint32_t slot = 0; slot < options_.connections_max; ++slot) {
        resume_connection(slot, std::move(sockets[slot]));
    }
    // Others may call it before its queues run again.
    update_listeners();
    commit_numbers();
}

void VsockEngine::resume_connection(uint32_t slot, UniqueFd socket) {
    const ConnectionRecord record = ledger_.record(slot);
    table_.set_generation(slot, record.generation);
    if (record.phase == 0) {
        return;
    }
    auto made = make_connection(table_.id_in(slot));
    const bool is_sound = restore(*made, record);
    const auto key = key_of(record);
    if (!is_sound && !key) {
        ledger_.commit(slot, record_of_none(made->id));
        return;
    }
    Connection& connection = table_.restore(std::move(made));
    counters_.connections.add();
    connection.socket = std::move(socket);
    connection.is_kept = connection.socket.valid();
    if (connection.is_kept && !connection.is_stream()) {
        // The guest knows of the window that it has.
        connection.from_guest.limit(
            std::max(message_bytes_max(connection.socket.get()), connection.from_guest.bytes()));
    }
    if (key && !table_.set_key(connection, *key)) {
        connection.phase = Phase::kResetting;
        destroy(connection);  // named twice
        return;
    }
    if (!is_sound) {
        connection.backlog.clear();
        begin_reset(connection);
        return;
    }
    resume_phase(connection);
    if (table_.find_in(slot) != nullptr) {
        commit(connection);
    }
}

/// As on_socket_event() and expire() find it.
void VsockEngine::resume_phase(Connection& connection) {
    const bool needs_socket =
        connection.phase != Phase::kDialing && connection.phase != Phase::kResetting;
    const bool needs_key =
        connection.phase != Phase::kGreeting && connection.phase != Phase::kLingering;
    if (!needs_socket) {
        close_socket(connection);  // it was got, and not committed
    }
    if (needs_socket != connection.socket.valid() || needs_key != connection.has_key) {
        // The keeper had no room for it.
        connection.phase = Phase::kResetting;
        if (connection.has_key) {
            note_end(EndReason::kHostError, name_of(connection));
            begin_reset(connection);
        } else {
            destroy(connection);
        }
        return;
    }
    switch (connection.phase) {
        case Phase::kGreeting:
            ++greetings_;
            set_deadline(connection, options_.greeting_timeout);
            break;
        case Phase::kAskingGuest:
            set_deadline(connection, options_.guest_answer_timeout);
            break;
        case Phase::kDialing:
            connection.dial_until = std::chrono::steady_clock::now() + kDialMax;
            set_deadline(connection, kDialRetry);
            return;
        case Phase::kCalling:
            if (!connection.called) {
                // The end that was to be left in the mailbox went with the process before.
                close_socket(connection);
                connection.phase = Phase::kDialing;
                set_deadline(connection, kDialRetry);
                return;
            }
            set_deadline(connection, options_.guest_answer_timeout);
            break;
        case Phase::kOpen:
            if (connection.guest_ended && connection.guest_deaf) {
                set_deadline(connection, options_.guest_close_timeout);
            } else if (connection.host_ended && connection.host_deaf) {
                set_deadline(connection, options_.host_close_timeout);
            }
            if (connection.from_guest.should_tell(connection.to_guest.buffer_bytes())) {
                connection.pending |= kPendingCreditUpdate;
            }
            break;
        case Phase::kResetting:
            connection.pending = kPendingReset;
            break;
        case Phase::kLingering:
            connection.lingering_unread = SIZE_MAX;
            linger_on(connection);
            break;
    }
    if (connection.is_of_sibling() && connection.socket.valid() &&
        connection.phase != Phase::kLingering) {
        join_sibling(connection, connection.called ? LinkSide::kCaller : LinkSide::kCalled);
    }
    if (connection.pending != 0) {
        owe(connection, 0);
    }
    if (!connection.socket.valid()) {
        return;
    }
    const ConnectionId id = connection.id;
    if (connection.message_over) {
        drop_from_socket(connection);
    }
    watch_socket(connection);
    if (table_.find(id) == nullptr) {
        return;
    }
    if (connection.phase == Phase::kOpen || connection.phase == Phase::kLingering) {
        write_backlog(connection);
    }
    if (table_.find(id) != nullptr && connection.phase == Phase::kOpen) {
        mark_readable(connection);
        // Both say again what they wait for; whoever comes last finds the other.
        if (connection.sibling.valid()) {
            ring_sibling(connection);
            hear_sibling(connection);
        }
    }
}

}  // namespace outrigger::vsock
