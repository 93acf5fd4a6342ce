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
    connection.socket = called->call(options_.guest_cid,
                                     connection.key.guest_port,
                                     connection.key.peer_port,
                                     connection.key.type);
    if (!connection.socket.valid()) {
        end(connection, EndReason::kSiblingDown);
        return;
    }
    connection.phase = Phase::kCalling;
    set_deadline(connection, kGuestAnswerMax);
    watch_socket(connection);
}

/// One byte: the other guest has accepted. The end: it has not.
void VsockEngine::on_sibling_answer(Connection& connection) {
    std::byte answer{};
    const ssize_t count = receive_bytes(connection.socket.get(), std::span(&answer, 1), false);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (count != 1) {
        end(connection, EndReason::kGuestRefused);
        return;
    }
    open_to_socket(connection);
    // What it sent right behind that.
    mark_readable(connection);
}

/// Other guests call this one.
void VsockEngine::take_calls() {
    for (int i = 0; i < kCallsMax && listening_; ++i) {
        std::optional<SiblingCall> call = self_->take_call();
        if (!call) {
            return;
        }
        // A call that is not taken up closes its end, which is the answer.
        if (call->socket.valid() &&
            (call->type == SocketType::kStream ? types_.stream : types_.seqpacket)) {
            take_call(*std::move(call));
        }
    }
}

void VsockEngine::take_call(SiblingCall call) {
    Connection& connection = table_.create(options_.window_bytes, options_.window_bytes_max);
    counters_.connections.add();
    connection.phase = Phase::kAskingGuest;
    if (!table_.set_key(connection,
                        {.peer_cid = call.from_cid,
                         .peer_port = call.from_port,
                         .guest_port = call.to_port,
                         .type = call.type})) {
        destroy(connection);  // the last connection of that pair is not over here
        return;
    }
    connection.socket = std::move(call.socket);
    set_deadline(connection, kGuestAnswerMax);
    update_listeners();
    owe(connection, kPendingRequest);
    watch_socket(connection);
}

}  // namespace outrigger::vsock
