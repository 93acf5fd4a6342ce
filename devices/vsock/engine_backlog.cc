// SPDX-License-Identifier: Apache-2.0
// The engine's way from the guest to the host: what is written to sockets, and what waits for them.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/socket.h>

#include "devices/vsock/connection_record.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

/// Memory that a connection which was slow keeps for the next time.
constexpr size_t kBacklogKept = 64 * 1024;

}  // namespace

void VsockEngine::flush_gathered() {
    Connection* const connection = std::exchange(gathered_.connection, nullptr);
    if (connection != nullptr) {
        const ConnectionId id = connection->id;
        msghdr message{};
        message.msg_iov = gathered_.pieces.data();
        message.msg_iovlen = gathered_.pieces.size();
        const ssize_t count =
            ledger_.send(TransferKind::kGather, slot_of(id), connection->socket.get(), message);
        const int os_error = count < 0 ? errno : 0;
        const auto written = static_cast<uint32_t>(count < 0 ? 0 : count);
        if (os_error == EFAULT && transmit_->buffers_were_lost(gathered_.pieces)) {
            end(*connection, EndReason::kMalformed);
        } else if (count >= 0 || on_write_error(*connection, os_error)) {
            if (written < gathered_.bytes) {
                keep_rest(*connection, written);
            }
            on_forwarded(*connection, written);
        }
        commit_if_there(id);
    }
    gathered_.pieces.clear();
    for (DescriptorChain& chain : gathered_.chains) {
        chain.complete(0);
    }
    gathered_.chains.clear();
    gathered_.bytes = 0;
}

/// What the socket did not take waits in memory of ours, so that the guest has its buffers back and
/// other connections go on.
void VsockEngine::keep_rest(Connection& connection, size_t written) {
    connection.backlog.add(gathered_.bytes - written, gathered_.pieces, written);
    if (transmit_->memory_was_lost()) {
        end(connection, EndReason::kMalformed);
        return;
    }
    set_waits_to_write(connection, true);
}

/// True: the connection goes on, and its socket takes nothing for now.
bool VsockEngine::on_write_error(Connection& connection, int os_error) {
    const bool waits =
        os_error == EAGAIN || os_error == EINTR || os_error == ENOBUFS || os_error == ENOMEM;
    if (waits) {
        return true;
    }
    switch (os_error) {
        case ECONNRESET:
            connection.host_was_reset = true;
            [[fallthrough]];
        case EPIPE: {
            if (connection.phase == Phase::kLingering) {
                end(connection, EndReason::kHostReset);
                return false;
            }
            const uint32_t dropped = gathered_.bytes;
            on_host_deaf(connection);
            if (connection.phase == Phase::kOpen) {
                on_forwarded(connection, dropped);
                mark_readable(connection);  // its end is to be found
            }
            return false;
        }
        case EMSGSIZE:
            end(connection, EndReason::kMessageTooLong);
            return false;
        default:
            end(connection, EndReason::kHostError);
            return false;
    }
}

/// What is in the backlog, as far as it goes in one call: so many bytes, or -1 and errno.
ssize_t VsockEngine::send_stream(Connection& connection) {
    HostBacklog::Ranges ranges = connection.backlog.stream();
    msghdr message{};
    message.msg_iov = ranges.data();
    message.msg_iovlen = ranges.size();
    return ledger_.send(
        TransferKind::kDrain, slot_of(connection.id), connection.socket.get(), message);
}

/// The message at the front of the backlog, all or nothing: its bytes, or -1 and errno.
ssize_t VsockEngine::send_message(Connection& connection, const HostBacklog::Message& front) {
    // Unix sockets have no MSG_EOR.
    SiblingMessageFlags flags = front.ends_record ? kSiblingEndOfRecord : 0;
    const size_t prefix = connection.is_of_sibling() ? sizeof flags : 0;
    std::array<iovec, 3> pieces{
        iovec{.iov_base = &flags, .iov_len = prefix}, front.bytes[0], front.bytes[1]};
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    ConnectionRecord behind = record_of(connection);
    const auto bytes = static_cast<uint32_t>(front.count);
    if (!connection.is_of_sibling()) {
        behind.forwarded += bytes;
    }
    behind.backlog_begin += bytes;
    ++behind.messages_begin;
    const uint32_t slot = slot_of(connection.id);
    ledger_.expect(slot, behind);
    const ssize_t count =
        ledger_.send(TransferKind::kWhole, slot, connection.socket.get(), message);
    return count < 0 ? count : static_cast<ssize_t>(front.count);
}

/// A step for each call. Nothing is to be committed before it.
void VsockEngine::write_backlog(Connection& connection) {
    const ConnectionId id = connection.id;
    HostBacklog& backlog = connection.backlog;
    // Each turn takes bytes or a message out of it, so this ends.
    while (connection.is_stream() ? backlog.bytes() > 0 : backlog.has_message()) {
        const HostBacklog::Message front =
            connection.is_stream() ? HostBacklog::Message{} : backlog.message();
        const ssize_t count =
            connection.is_stream() ? send_stream(connection) : send_message(connection, front);
        if (count < 0) {
            const int os_error = errno;
            const bool goes_on = on_write_error(connection, os_error);
            if (goes_on && (os_error == ENOBUFS || os_error == ENOMEM)) {
                // The socket never stopped being writable: no event would come, or one at once.
                starved_.push_back(connection);
                try_again_later();
            } else if (goes_on) {
                connection.waits_to_write = false;
                set_waits_to_write(connection, true);
            }
            commit_if_there(id);
            return;
        }
        if (connection.is_stream()) {
            backlog.take_bytes(static_cast<size_t>(count));
        } else {
            backlog.take_message(front);
        }
        on_forwarded(connection, static_cast<uint32_t>(count));
        commit(connection);
    }
    release_backlog(connection, kBacklogKept);
    set_waits_to_write(connection, false);
    after_backlog(connection);
    commit_if_there(id);
}

/// Each of them once.
void VsockEngine::write_starved() {
    std::vector<ConnectionId> ids;
    while (Connection* const connection = starved_.front()) {
        ids.push_back(connection->id);
        starved_.remove(*connection);
    }
    for (const ConnectionId id : ids) {
        Connection* const connection = table_.find(id);
        if (connection != nullptr && !connection->is_written()) {
            write_backlog(*connection);
        }
    }
}

/// So much has left for the host: there is room for as much of the guest's again, unless that is
/// another guest's to say.
void VsockEngine::on_forwarded(Connection& connection, uint32_t bytes) {
    connection.from_guest.note_written(bytes);
    if (!connection.host_deaf) {
        counters_.bytes_from_guest.add(bytes);
    }
    free_room(connection);
    offer_room(connection);
}

/// Tells the guest of its room, if that is worth a packet.
void VsockEngine::offer_room(Connection& connection) {
    if (connection.phase != Phase::kOpen) {
        return;
    }
    const uint32_t guest_buffer = connection.to_guest.buffer_bytes();
    if (connection.from_guest.should_tell(guest_buffer)) {
        if (connection.backlog.empty() && connection.from_guest.bytes() < guest_buffer) {
            connection.from_guest.grow();
        }
        owe(connection, kPendingCreditUpdate);
    } else if (connection.needs_all_room() && connection.from_guest.has_news()) {
        owe(connection, kPendingCreditUpdate);
    }
    if (connection.sibling.valid()) {
        await_room(connection);
    }
}

/// When nothing is left to write, the end of the guest's bytes is passed on.
void VsockEngine::after_backlog(Connection& connection) {
    if (!connection.guest_ended || !connection.is_written()) {
        return;
    }
    if (connection.phase == Phase::kLingering) {
        destroy(connection);
        return;
    }
    if (connection.phase != Phase::kOpen) {
        return;
    }
    if (connection.guest_deaf) {
        begin_reset(connection);
        return;
    }
    if (!connection.send_ended) {
        connection.send_ended = true;
        (void)::shutdown(connection.socket.get(), SHUT_WR);
    }
}

}  // namespace outrigger::vsock
