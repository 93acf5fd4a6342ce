// SPDX-License-Identifier: Apache-2.0
// The engine's connections with other guests of the program: see siblings.h.
#include <cerrno>
#include <utility>

#include <fmt/core.h>

#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

/// Calls taken before anybody else has a turn.
constexpr int kCallsMax = 16;

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
        end(connection, EndReason::kSiblingDown);
        return;
    }
    adopt(connection, std::move(ends->caller));
    connection.phase = Phase::kCalling;
    commit(connection);
    const bool is_left = called->call(
        {.from_cid = options_.guest_cid,
         .from_port = connection.key.guest_port,
         .to_port = connection.key.peer_port,
         .type = connection.key.type,
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
    set_deadline(connection, kGuestAnswerMax);
    watch_socket(connection);
}

/// One byte: the other guest has accepted. The end: it has not.
void VsockEngine::on_sibling_answer(Connection& connection) {
    const ssize_t count = look_for_byte(connection.socket.get());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (count != 1) {
        end(connection, EndReason::kGuestRefused);
        return;
    }
    open_to_socket(connection);
    if (!take_whole(connection, 1)) {
        end(connection, EndReason::kGuestRefused);
        return;
    }
    // What it sent right behind that.
    mark_readable(connection);
}

/// Other guests call this one.
void VsockEngine::take_calls() {
    for (int i = 0; i < kCallsMax && listening_; ++i) {
        std::optional<SiblingCall> call = self_->next_call();
        if (!call) {
            return;
        }
        // A call that is not taken up closes its end, which is the answer. It may have been left by
        // an earlier process, with other rules.
        const std::shared_ptr<Sibling> caller = Sibling::find(call->from_cid);
        if (caller == nullptr || !self_->lets_in(*caller, call->to_port)) {
            note_end(EndReason::kRuleWithdrawn,
                     fmt::format("{}:{} to port {} of the guest",
                                 call->from_cid,
                                 call->from_port,
                                 call->to_port));
        } else if (call->socket.valid() &&
                   (call->type == SocketType::kStream ? types_.stream : types_.seqpacket)) {
            take_call(*std::move(call));
        }
        self_->drop_call();
    }
}

void VsockEngine::take_call(SiblingCall call) {
    const ConnectionKey key{.peer_cid = call.from_cid,
                            .peer_port = call.from_port,
                            .guest_port = call.to_port,
                            .type = call.type};
    if (table_.find(key) != nullptr) {
        return;  // the last connection of that pair is not over here
    }
    Connection& connection = begin_connection();
    const ConnectionId id = connection.id;
    (void)table_.set_key(connection, key);
    connection.phase = Phase::kAskingGuest;
    adopt(connection, std::move(call.socket));
    set_deadline(connection, kGuestAnswerMax);
    update_listeners();
    owe(connection, kPendingRequest);
    watch_socket(connection);
    commit_if_there(id);
}

}  // namespace outrigger::vsock
