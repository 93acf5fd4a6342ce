// SPDX-License-Identifier: Apache-2.0
// The engine's connections with other guests of the program: see siblings.h.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include <fmt/core.h>

#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

/// Calls taken before anybody else has a turn.
constexpr int kCallsMax = 16;

/// Above kSiblingAccepts.
constexpr uint8_t kFirstReason = 128;

std::byte answer_of(EndReason reason) {
    return std::byte(kFirstReason + static_cast<uint8_t>(reason));
}

EndReason reason_of(std::byte answer) {
    const auto number = static_cast<size_t>(answer) - kFirstReason;
    return number < kEndReasonCount ? static_cast<EndReason>(number) : EndReason::kGuestRefused;
}

}  // namespace

/// Of an earlier process, whose rules may have been others.
bool VsockEngine::is_still_allowed(const Connection& connection) const {
    if (!connection.is_of_sibling() || connection.phase == Phase::kDialing) {
        return true;  // one that is yet to be called is asked about then
    }
    const std::shared_ptr<Sibling> other = Sibling::find(connection.key.peer_cid);
    if (other == nullptr) {
        return true;  // its end has gone with it, and is found
    }
    return connection.called ? other->lets_in(*self_, connection.key.peer_port)
                             : self_->lets_in(*other, connection.key.guest_port);
}

/// Before anything of these connections goes either way: each device looks at its own ends. By now
/// all devices of the program are there.
void VsockEngine::end_forbidden() {
    table_.for_each([this](Connection& connection) {
        if (!is_still_allowed(connection)) {
            end(connection, EndReason::kRuleWithdrawn);
        }
    });
}

/// The guest calls another one.
void VsockEngine::call_sibling(Connection& connection) {
    const std::shared_ptr<Sibling> called = Sibling::find(connection.key.peer_cid);
    if (called == nullptr || !called->is_up()) {
        end(connection, EndReason::kSiblingDown);
        return;
    }
    if (!called->lets_in(*self_, connection.key.peer_port)) {
        end(connection, EndReason::kNotAllowed);
        return;
    }
    auto ends = Sibling::make_ends(connection.key.type);
    if (!ends) {
        end(connection, EndReason::kNoDescriptors);
        return;
    }
    adopt(connection, std::move(ends->caller));
    connection.phase = Phase::kCalling;
    connection.link = next_link_++;
    join_sibling(connection, LinkSide::kCaller);
    commit(connection);
    const bool is_left = called->call(
        {.from_cid = options_.guest_cid,
         .from_port = connection.key.guest_port,
         .to_port = connection.key.peer_port,
         .type = connection.key.type,
         .link = connection.link,
         .socket = std::move(ends->called)},
        [&](int mailbox, const msghdr& message) {
            connection.called = true;
            expect(connection);
            return ledger_.send(TransferKind::kWhole, slot_of(connection.id), mailbox, message);
        });
    if (!is_left) {
        end(connection, EndReason::kSiblingDown);
        return;
    }
    set_deadline(connection, options_.guest_answer_timeout);
    watch_socket(connection);
}

/// One byte: the other guest has accepted, or why its device did not ask it. The end: it has not.
void VsockEngine::on_sibling_answer(Connection& connection) {
    std::byte answer{};
    constexpr bool kPeek = true;
    const ssize_t count = receive_bytes(connection.socket.get(), std::span(&answer, 1), kPeek);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (count != 1) {
        end(connection, EndReason::kGuestRefused);
        return;
    }
    if (answer != std::byte{kSiblingAccepts}) {
        end(connection, reason_of(answer));
        return;
    }
    fit_messages(connection);
    open_to_socket(connection);
    if (!take_whole(connection, 1)) {
        end(connection, EndReason::kGuestRefused);
        return;
    }
    // What it sent right behind that.
    mark_readable(connection);
    hear_sibling(connection);
}

/// Other guests call this one.
void VsockEngine::take_calls() {
    for (int i = 0; i < kCallsMax && takes_calls_; ++i) {
        std::optional<SiblingCall> call = self_->next_call();
        if (!call) {
            return;
        }
        // A call that is not taken up closes its end, which is the answer.
        if (const auto reason = take_call(*call)) {
            note_end(*reason,
                     fmt::format("{}:{} to port {} of the guest",
                                 call->from_cid,
                                 call->from_port,
                                 call->to_port));
            if (call->socket.valid()) {
                send_byte(call->socket.get(), answer_of(*reason));
            }
        }
        self_->drop_call();
    }
}

/// Why not, or nothing: it is taken up.
std::optional<EndReason> VsockEngine::take_call(SiblingCall& call) {
    const std::shared_ptr<Sibling> caller = Sibling::find(call.from_cid);
    if (caller == nullptr || !self_->lets_in(*caller, call.to_port)) {
        return EndReason::kRuleWithdrawn;  // it was left by an earlier process
    }
    if (!call.socket.valid()) {
        return EndReason::kNoDescriptors;
    }
    if (!(call.type == SocketType::kStream ? types_.stream : types_.seqpacket)) {
        return EndReason::kTypeNotNegotiated;
    }
    if (table_.is_full()) {
        return EndReason::kTooManyConnections;
    }
    const ConnectionKey key{.peer_cid = call.from_cid,
                            .peer_port = call.from_port,
                            .guest_port = call.to_port,
                            .type = call.type};
    if (table_.find(key) != nullptr) {
        return EndReason::kPortsInUse;
    }
    Connection& connection = begin_connection();
    const ConnectionId id = connection.id;
    (void)table_.set_key(connection, key);
    connection.phase = Phase::kAskingGuest;
    adopt(connection, std::move(call.socket));
    connection.link = call.link;
    join_sibling(connection, LinkSide::kCalled);
    fit_messages(connection);
    set_deadline(connection, options_.guest_answer_timeout);
    update_listeners();
    owe(connection, kPendingRequest);
    watch_socket(connection);
    commit_if_there(id);
    return std::nullopt;
}

// --- Room --------------------------------------------------------------------------------------
//
// Of a connection between two guests, bytes count as forwarded when the other guest has taken them
// out of its own buffer; and there is as much room as that buffer has, within the limits. Its
// device knows both from the credit in its packets, and says so by the link.

/// Of a connection that begins, or comes from another process.
void VsockEngine::join_sibling(Connection& connection, LinkSide side) {
    connection.sibling = SiblingEnd(connection.link,
                                    side,
                                    static_cast<uint64_t>(connection.id),
                                    connection.to_guest.forwarded());
    if (!connection.sibling.valid()) {
        return;
    }
    (void)connection.sibling.tell_room(connection.to_guest.buffer_bytes());
    (void)connection.from_guest.grow_to(connection.sibling.room_there());
    if (connection.guest_deaf) {
        connection.sibling.tell_deaf();
    }
}

/// A message goes to the other guest as a whole: this one, which is yet to be told of its window,
/// may send none that has no room there. That is what the other's buffer is now; a guest that makes
/// it smaller later may lose the connection.
void VsockEngine::fit_messages(Connection& connection) {
    if (!connection.is_stream() && connection.sibling.valid() && connection.sibling.taken_there()) {
        connection.from_guest.begin_with(connection.sibling.room_there());
    }
}

void VsockEngine::leave_sibling(Connection& connection) {
    drop_question(connection);
    if (connection.sibling.valid()) {
        connection.sibling.ask_nothing();
        connection.sibling = {};
    }
}

void VsockEngine::ring_sibling(Connection& connection) {
    const std::optional<uint64_t> name = connection.sibling.ring();
    if (!name) {
        return;
    }
    if (const std::shared_ptr<Sibling> other = Sibling::find(connection.key.peer_cid)) {
        other->ring(*name);
    } else {
        connection.sibling.take_back_ring();
    }
}

void VsockEngine::take_rings() {
    for (const uint64_t name : self_->take_rings()) {
        if (Connection* const connection = table_.find(ConnectionId{name})) {
            hear_sibling(*connection);
            commit_if_there(ConnectionId{name});
        }
    }
}

/// The other guest has taken something, or waits until this one has.
void VsockEngine::hear_sibling(Connection& connection) {
    if (!connection.sibling.valid()) {
        return;
    }
    connection.sibling.hear();
    if (connection.phase != Phase::kOpen) {
        return;
    }
    if (connection.sibling.is_deaf_there()) {
        // Without room the guest sends nothing, and would never find out.
        on_host_deaf(connection);
        if (connection.phase != Phase::kOpen) {
            return;
        }
    }
    if (connection.from_guest.grow_to(connection.sibling.room_there())) {
        owe(connection, kPendingCreditUpdate);
    }
    (void)free_room(connection);
    offer_room(connection);
    drop_question(connection);
    ask_guest(connection);
}

/// As much as is known to have been taken. True: that is more than before.
bool VsockEngine::free_room(Connection& connection) {
    ReceiveWindow& window = connection.from_guest;
    const uint32_t before = window.forwarded();
    if (!connection.sibling.valid() || connection.host_deaf) {
        window.free_written();
    } else if (const auto taken = connection.sibling.taken_there()) {
        window.free_taken(*taken);
    }
    return window.forwarded() != before;
}

/// Is to be rung for when the other guest has taken as much as is worth telling this one.
void VsockEngine::await_room(Connection& connection) {
    const ReceiveWindow& window = connection.from_guest;
    const bool is_told_soon = (connection.pending & kPendingCreditUpdate) != 0;
    const uint32_t told = is_told_soon ? window.forwarded() : window.told();
    const uint32_t worth =
        connection.needs_all_room() ? 1 : window.worth_telling(connection.to_guest.buffer_bytes());
    if (connection.host_deaf || window.written() - told < worth) {
        connection.sibling.ask_nothing();
        return;
    }
    if (connection.sibling.ask(told + worth)) {
        ring_sibling(connection);
    }
    if (free_room(connection)) {
        offer_room(connection);  // it had been taken meanwhile; there is an end to what can be
    }
}

/// A packet of the guest says what it has taken by now; `before`: what it had said.
void VsockEngine::note_taken_by_guest(Connection& connection, uint32_t before) {
    const uint32_t taken = connection.to_guest.forwarded();
    if (connection.sibling.tell_room(connection.to_guest.buffer_bytes())) {
        ring_sibling(connection);
    }
    if (taken == before) {
        return;
    }
    if (connection.sibling.tell_taken(taken)) {
        ring_sibling(connection);
    }
    drop_question(connection);
    if (connection.sibling.is_waited_for()) {
        set_question(connection);
    }
}

/// The other guest waits for room, and this one has bytes of it: has it taken any?
void VsockEngine::ask_guest(Connection& connection) {
    if (connection.phase != Phase::kOpen || !connection.sibling.valid() || connection.guest_deaf ||
        connection.question || !connection.sibling.is_waited_for() ||
        connection.to_guest.sent() == connection.to_guest.forwarded()) {
        return;
    }
    owe(connection, kPendingCreditRequest);
    set_question(connection);
}

/// Once more in a while. A guest that has no room left says by itself when it has some.
void VsockEngine::set_question(Connection& connection) {
    if (connection.to_guest.available() > 0 && !connection.guest_deaf) {
        const auto due = std::chrono::steady_clock::now() + connection.question_delay;
        connection.question = questions_.emplace(due, &connection);
        connection.question_delay = std::min(2 * connection.question_delay, kQuestionDelayMax);
        restart_timer();
    }
}

void VsockEngine::drop_question(Connection& connection) {
    if (connection.question) {
        questions_.erase(*std::exchange(connection.question, std::nullopt));
    }
    connection.question_delay = kQuestionDelay;
}

void VsockEngine::ask_again() {
    const auto now = std::chrono::steady_clock::now();
    while (!questions_.empty() && questions_.begin()->first <= now) {
        Connection& connection = *questions_.begin()->second;
        questions_.erase(*std::exchange(connection.question, std::nullopt));
        ask_guest(connection);
        commit(connection);
    }
}

}  // namespace outrigger::vsock
