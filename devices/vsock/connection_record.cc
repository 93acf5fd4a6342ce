// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/connection_record.h"

#include <array>
#include <utility>

#include "devices/vsock/connection_table.h"

namespace outrigger::vsock {
namespace {

/// A flag of a connection, and its bit in the record.
struct Flag {
    bool Connection::*member;
    uint32_t bit;
};

constexpr std::array kFlags{Flag{&Connection::has_key, kRecordHasKey},
                            Flag{&Connection::wants_credit, kRecordWantsCredit},
                            Flag{&Connection::host_ended, kRecordHostEnded},
                            Flag{&Connection::host_deaf, kRecordHostDeaf},
                            Flag{&Connection::host_was_reset, kRecordHostWasReset},
                            Flag{&Connection::guest_ended, kRecordGuestEnded},
                            Flag{&Connection::guest_deaf, kRecordGuestDeaf},
                            Flag{&Connection::send_ended, kRecordSendEnded},
                            Flag{&Connection::called, kRecordCalled},
                            Flag{&Connection::message_over, kRecordMessageOver},
                            Flag{&Connection::is_forwarded, kRecordForwarded},
                            Flag{&Connection::wants_room, kRecordWantsRoom}};

constexpr uint32_t kPendingAll = kPendingRequest | kPendingResponse | kPendingReset |
                                 kPendingCreditRequest | kPendingCreditUpdate | kPendingShutdown;

bool is_type(uint16_t type) {
    return type == static_cast<uint16_t>(SocketType::kStream) ||
           type == static_cast<uint16_t>(SocketType::kSeqpacket);
}

}  // namespace

ConnectionRecord record_of(const Connection& connection) {
    const HostBacklog::Position& backlog = connection.backlog.position();
    ConnectionRecord record{.peer_cid = connection.key.peer_cid,
                            .peer_port = connection.key.peer_port,
                            .guest_port = connection.key.guest_port,
                            .type = static_cast<uint16_t>(connection.key.type),
                            .phase = static_cast<uint8_t>(std::to_underlying(connection.phase) + 1),
                            .reserved = 0,
                            .flags = 0,
                            .pending = connection.pending,
                            .generation = generation_of(connection.id),
                            .guest_buffer_bytes = connection.to_guest.buffer_bytes(),
                            .guest_forwarded = connection.to_guest.forwarded(),
                            .sent = connection.to_guest.sent(),
                            .window_bytes = connection.from_guest.bytes(),
                            .received = connection.from_guest.received(),
                            .forwarded = connection.from_guest.forwarded(),
                            .told = connection.from_guest.told(),
                            .backlog_begin = backlog.begin,
                            .backlog_end = backlog.end,
                            .messages_begin = backlog.messages_begin,
                            .messages_end = backlog.messages_end,
                            .message_sent = static_cast<uint32_t>(connection.message_sent),
                            .link = connection.link};
    for (const Flag& flag : kFlags) {
        record.flags |= connection.*flag.member ? flag.bit : 0;
    }
    return record;
}

ConnectionRecord record_of_none(ConnectionId id) {
    ConnectionRecord record{};
    record.generation = generation_of(id);
    return record;
}

bool restore(Connection& connection, const ConnectionRecord& record) {
    if (record.phase == 0 || record.phase > std::to_underlying(Phase::kLingering) + 1 ||
        !is_type(record.type) || (record.pending & ~kPendingAll) != 0 ||
        !connection.from_guest.restore(
            record.window_bytes,
            {.received = record.received,
             .written = record.received - (record.backlog_end - record.backlog_begin),
             .forwarded = record.forwarded,
             .told = record.told}) ||
        !connection.backlog.restore({.begin = record.backlog_begin,
                                     .end = record.backlog_end,
                                     .messages_begin = record.messages_begin,
                                     .messages_end = record.messages_end})) {
        return false;
    }
    for (const Flag& flag : kFlags) {
        connection.*flag.member = (record.flags & flag.bit) != 0;
    }
    connection.has_key = false;
    connection.key = {.peer_cid = record.peer_cid,
                      .peer_port = record.peer_port,
                      .guest_port = record.guest_port,
                      .type = SocketType{record.type}};
    connection.phase = Phase{static_cast<uint8_t>(record.phase - 1)};
    connection.pending = record.pending;
    connection.to_guest.restore(record.guest_buffer_bytes, record.guest_forwarded, record.sent);
    connection.message_sent = record.message_sent;
    connection.link = record.link;
    return true;
}

std::optional<ConnectionKey> key_of(const ConnectionRecord& record) {
    if ((record.flags & kRecordHasKey) == 0 || !is_type(record.type)) {
        return std::nullopt;
    }
    return ConnectionKey{.peer_cid = record.peer_cid,
                         .peer_port = record.peer_port,
                         .guest_port = record.guest_port,
                         .type = SocketType{record.type}};
}

}  // namespace outrigger::vsock
