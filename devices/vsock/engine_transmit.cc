// SPDX-License-Identifier: Apache-2.0
// The engine's way from the guest to the host.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/socket.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/error.h"

#include "devices/vsock/connection_record.h"
#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

/// Packets taken before the worker's other queues have their turn.
constexpr int kBatch = 128;

/// What goes to one socket in one call. The kernel takes 1024 pieces (UIO_MAXIOV).
constexpr size_t kPiecesMax = 1024;
constexpr uint32_t kGatherBytesMax = 256 * 1024;

}  // namespace

QueueProgress VsockEngine::take_transmit_queue() {
    find_place(*transmit_, transmit_found_, ledger_.numbers().transmit_next);
    for (int taken = 0; taken < kBatch; ++taken) {
        // What an earlier process had in hand must be answered whatever waits.
        if (resets_waiting() >= kResetsMax && !transmit_->is_ending()) {
            flush_gathered();
            transmit_waits_ = true;
            counters_.transmit_pauses.add();
            return QueueProgress::kWaiting;
        }
        std::optional<DescriptorChain> chain = transmit_->pop();
        if (!chain) {
            flush_gathered();
            return QueueProgress::kDrained;
        }
        if (chain->is_replayed() && chain->sequence() < ledger_.numbers().transmit_next) {
            chain->complete(0);  // an earlier process did all that, and could not say so
            continue;
        }
        take_packet(*std::move(chain));
    }
    flush_gathered();
    return QueueProgress::kMore;
}

/// The chain goes back to the driver whatever is in it: unless it is gathered, when it is
/// destroyed.
void VsockEngine::take_packet(DescriptorChain chain) {
    counters_.packets_from_guest.add();
    sequence_ = chain.sequence();
    if (!chain.is_replayed()) [[likely]] {
        ledger_.numbers().skip_slot = kNoSlot;
    }
    ChainReader reader = chain.take_reader();
    const auto header = reader.read_object<PacketHeader>();
    if (!header) {
        flush_gathered();
        note_taken();
        commit_numbers();
        counters_.malformed.add(PacketFault::kTooShort);
        malformed_limiter_.log(LogLevel::kWarning,
                               "vsock cid {}: a packet with {}",
                               options_.guest_cid,
                               describe(PacketFault::kTooShort));
        return;
    }
    const ParsedPacket parsed = parse_packet(*header,
                                             {.guest_cid = options_.guest_cid,
                                              .payload_bytes = reader.remaining(),
                                              .allows_stream = types_.stream,
                                              .allows_seqpacket = types_.seqpacket});
    take_packet_of(parsed, chain, reader);
}

void VsockEngine::take_packet_of(const ParsedPacket& parsed,
                                 DescriptorChain& chain,
                                 ChainReader& reader) {
    if (parsed.fault) {
        counters_.malformed.add(*parsed.fault);
        malformed_limiter_.log(LogLevel::kWarning,
                               "vsock cid {}: a packet with {}",
                               options_.guest_cid,
                               describe(*parsed.fault));
    }
    const PacketAddresses& from = parsed.addresses;
    const ConnectionKey key{.peer_cid = from.destination_cid,
                            .peer_port = from.destination_port,
                            .guest_port = from.source_port,
                            .type = SocketType{from.type}};
    const bool is_ours = from.source_cid == options_.guest_cid;
    Connection* const connection = is_ours ? table_.find(key) : nullptr;
    const bool is_data = !parsed.fault && parsed.packet.operation == Operation::kData;
    if (connection == nullptr || gathered_.connection != connection || !is_data) {
        flush_gathered();
    }
    if (connection == nullptr) {
        note_taken();
        take_stray(parsed, key);
        commit_numbers();
        return;
    }
    const ConnectionId id = connection->id;
    Taken taken = Taken::kDone;
    if (parsed.fault) {
        note_taken();
        if (!parsed.is_reset) {
            end(*connection, EndReason::kMalformed);
        }
    } else {
        const uint32_t taken_before = connection->to_guest.forwarded();
        connection->to_guest.update(parsed.packet.buffer_bytes, parsed.packet.forwarded_bytes);
        if (connection->sibling.valid()) {
            note_taken_by_guest(*connection, taken_before);
        }
        if (connection->wants_credit && connection->to_guest.available() > 0) {
            connection->wants_credit = false;
            mark_readable(*connection);
        }
        if (is_data) {
            taken = take_data(*connection, parsed.packet, chain, reader);
        } else {
            note_taken();
            take_control(*connection, parsed.packet);
        }
    }
    if (taken == Taken::kGathered) {
        return;
    }
    commit_if_there(id);
    if (taken == Taken::kDoneAndWrite) {
        write_backlog(*connection);
    }
}

/// Of no connection.
void VsockEngine::take_stray(const ParsedPacket& parsed, const ConnectionKey& key) {
    if (parsed.fault) {
        answer_with_reset(parsed, EndReason::kMalformed);
    } else if (parsed.packet.operation != Operation::kRequest) {
        answer_with_reset(parsed, EndReason::kNoConnection);
    } else if (key.peer_cid != kHostCid && Sibling::find(key.peer_cid) == nullptr) {
        answer_with_reset(parsed, EndReason::kNoSuchCid);
    } else if (table_.is_full()) {
        answer_with_reset(parsed, EndReason::kTooManyConnections);
    } else {
        begin_from_guest(key, parsed.packet);
    }
}

void VsockEngine::take_control(Connection& connection, const Packet& packet) {
    switch (packet.operation) {
        case Operation::kRequest:
            end(connection, EndReason::kProtocol);
            return;
        case Operation::kResponse:
            take_response(connection);
            return;
        case Operation::kReset:
            take_reset(connection);
            return;
        case Operation::kShutdown:
            take_shutdown(connection, packet.flags);
            return;
        case Operation::kCreditRequest:
            if (connection.phase == Phase::kOpen) {
                owe(connection, kPendingCreditUpdate);
                connection.wants_room = connection.sibling.valid();
                offer_room(connection);
            }
            return;
        case Operation::kData:
        case Operation::kCreditUpdate:
            return;
    }
}

/// Never a reset to a reset: port pairs are used again at once, and a stray one would end the next
/// connection.
void VsockEngine::answer_with_reset(const ParsedPacket& parsed, EndReason reason) {
    if (parsed.is_reset) {
        return;
    }
    note_end(reason,
             fmt::format("port {} of the guest to {}:{}",
                         parsed.addresses.source_port,
                         parsed.addresses.destination_cid,
                         parsed.addresses.destination_port));
    // A guest is answered at its own address, whatever it says that it has.
    if (resets_waiting() < kResetsMax) {
        add_reset(parsed.addresses);
    }
}

void VsockEngine::begin_from_guest(const ConnectionKey& key, const Packet& packet) {
    Connection& connection = begin_connection();
    const bool is_new = table_.set_key(connection, key);
    OUTRIGGER_ASSERT(is_new);
    connection.phase = Phase::kDialing;
    connection.to_guest.update(packet.buffer_bytes, packet.forwarded_bytes);
    connection.dial_until = std::chrono::steady_clock::now() + kDialMax;
    update_listeners();
    const ConnectionId id = connection.id;
    if (key.peer_cid == kHostCid) {
        dial_host(connection);
    } else {
        call_sibling(connection);
    }
    commit_if_there(id);
}

void VsockEngine::take_response(Connection& connection) {
    switch (connection.phase) {
        case Phase::kAskingGuest:
            confirm_to_client(connection);
            return;
        case Phase::kDialing:
        case Phase::kCalling:
        case Phase::kOpen:
            end(connection, EndReason::kProtocol);
            return;
        case Phase::kResetting:
            return;
        case Phase::kGreeting:
        case Phase::kLingering:
            return;  // have no key, so no packet comes here
    }
}

void VsockEngine::take_shutdown(Connection& connection, uint32_t flags) {
    if (connection.phase == Phase::kResetting) {
        return;
    }
    if (connection.phase != Phase::kOpen) {
        end(connection, EndReason::kProtocol);
        return;
    }
    if ((flags & kShutdownReceive) != 0 && !connection.guest_deaf) {
        connection.guest_deaf = true;
        connection.wants_credit = false;
        connection.drop_message();
        readable_.remove(connection);
        (void)::shutdown(connection.socket.get(), SHUT_RD);
        if (connection.sibling.valid()) {
            drop_question(connection);
            connection.sibling.tell_deaf();
            ring_sibling(connection);
        }
    }
    if ((flags & kShutdownSend) != 0) {
        connection.guest_ended = true;
    }
    if (connection.guest_ended) {
        if (connection.guest_deaf && !connection.is_written() && !connection.deadline) {
            set_deadline(connection, options_.guest_close_timeout);
        }
        after_backlog(connection);
    }
}

void VsockEngine::take_reset(Connection& connection) {
    switch (connection.phase) {
        case Phase::kAskingGuest:
            note_end(EndReason::kGuestRefused, name_of(connection));
            break;
        case Phase::kOpen:
            if (connection.guest_ended && !connection.is_written()) {
                // It was closed in the guest, which then did not wait for all to arrive.
                linger_untold(connection);
                return;
            }
            if (!connection.host_ended && !connection.guest_ended) {
                note_end(EndReason::kGuestReset, name_of(connection));
            }
            break;
        case Phase::kDialing:
        case Phase::kCalling:
        case Phase::kResetting:
            break;
        case Phase::kGreeting:
        case Phase::kLingering:
            return;  // have no key, so no packet comes here
    }
    destroy(connection);
}

// --- Data --------------------------------------------------------------------------------------

VsockEngine::Taken VsockEngine::take_data(Connection& connection,
                                          const Packet& packet,
                                          DescriptorChain& chain,
                                          ChainReader& reader) {
    connection.wants_room = false;
    const bool may_gather = connection.phase == Phase::kOpen && connection.is_stream() &&
                            !connection.guest_ended && !connection.host_deaf &&
                            connection.backlog.empty() && packet.length > 0 &&
                            ledger_.numbers().skip_slot == kNoSlot;
    if (may_gather) [[likely]] {
        return gather(connection, packet, chain, reader);
    }
    flush_gathered();
    note_taken();
    if (connection.phase == Phase::kResetting) {
        return Taken::kDone;
    }
    if (connection.phase != Phase::kOpen || connection.guest_ended) {
        end(connection, EndReason::kProtocol);
        return Taken::kDone;
    }
    if (!connection.from_guest.admit(packet.length)) {
        end(connection, EndReason::kCreditExceeded);
        return Taken::kDone;
    }
    if (connection.host_deaf) {
        on_forwarded(connection, packet.length);
        return Taken::kDone;
    }
    return connection.is_stream() ? take_bytes(connection, packet.length, reader)
                                  : take_part(connection, packet, reader);
}

/// Bytes of a stream that do not go to the socket at once.
VsockEngine::Taken VsockEngine::take_bytes(Connection& connection,
                                           uint32_t bytes,
                                           ChainReader& reader) {
    Numbers& numbers = ledger_.numbers();
    if (numbers.skip_slot == slot_of(connection.id)) {
        // An earlier process wrote them, and could not say so.
        const uint32_t written = std::min(numbers.skip_bytes, bytes);
        reader.skip(written);
        on_forwarded(connection, written);
        bytes -= written;
        numbers.skip_bytes -= written;
    }
    if (numbers.skip_bytes == 0) {
        numbers.skip_slot = kNoSlot;
    }
    if (bytes == 0) {
        return Taken::kDone;
    }
    const bool was_empty = connection.backlog.empty();
    keep_for_later(connection, bytes, reader);
    return was_empty && connection.phase == Phase::kOpen ? Taken::kDoneAndWrite : Taken::kDone;
}

/// A message, or a part of one.
VsockEngine::Taken VsockEngine::take_part(Connection& connection,
                                          const Packet& packet,
                                          ChainReader& reader) {
    const bool was_idle = !connection.backlog.has_message();
    keep_for_later(connection, packet.length, reader);
    if (connection.phase != Phase::kOpen) {
        return Taken::kDone;  // it has just failed
    }
    if ((packet.flags & kEndOfMessage) == 0) {
        on_forwarded(connection, 0);
        return Taken::kDone;
    }
    if (!connection.backlog.end_message((packet.flags & kEndOfRecord) != 0)) {
        end(connection, EndReason::kTooManyMessages);
        return Taken::kDone;
    }
    return was_idle ? Taken::kDoneAndWrite : Taken::kDone;
}

VsockEngine::Taken VsockEngine::gather(Connection& connection,
                                       const Packet& packet,
                                       DescriptorChain& chain,
                                       ChainReader& reader) {
    const std::span<const iovec> segments = reader.take_iovecs();
    // Before it is admitted: what is committed behind that call is true of the packets before.
    if (gathered_.pieces.size() + segments.size() > kPiecesMax ||
        gathered_.bytes >= kGatherBytesMax || !connection.from_guest.admits(packet.length)) {
        flush_gathered();
        if (connection.phase != Phase::kOpen) {
            note_taken();
            return Taken::kDone;  // it has just failed
        }
    }
    if (!connection.from_guest.admit(packet.length)) {
        note_taken();
        end(connection, EndReason::kCreditExceeded);
        return Taken::kDone;
    }
    if (connection.host_deaf) {
        note_taken();
        on_forwarded(connection, packet.length);
        return Taken::kDone;
    }
    const bool was_empty = connection.backlog.empty();
    if (segments.size() > kPiecesMax || !was_empty) {
        note_taken();
        connection.backlog.add(packet.length, segments);
        if (transmit_->memory_was_lost()) {
            end(connection, EndReason::kMalformed);
            return Taken::kDone;
        }
        return was_empty ? Taken::kDoneAndWrite : Taken::kDone;
    }
    uint32_t wanted = packet.length;
    for (const iovec& segment : segments) {
        iovec piece = segment;
        piece.iov_len = std::min<size_t>(piece.iov_len, wanted);
        if (piece.iov_len == 0) {
            break;
        }
        wanted -= static_cast<uint32_t>(piece.iov_len);
        gathered_.pieces.push_back(piece);
    }
    gathered_.connection = &connection;
    gathered_.bytes += packet.length;
    gathered_.chains.push_back(std::move(chain));
    note_taken();
    return Taken::kGathered;
}

void VsockEngine::keep_for_later(Connection& connection, uint32_t bytes, ChainReader& reader) {
    for (const iovec& range : connection.backlog.extend(bytes)) {
        (void)reader.read(HostBacklog::as_bytes(range));
    }
    if (transmit_->memory_was_lost()) {
        // They may be zeroes of our own.
        end(connection, EndReason::kMalformed);
    }
}

}  // namespace outrigger::vsock
