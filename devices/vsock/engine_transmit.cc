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
    for (int taken = 0; taken < kBatch; ++taken) {
        // What an earlier process had in hand must be answered whatever waits.
        if (resets_.size() >= kResetsMax && !transmit_->is_ending()) {
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
        take_packet(*std::move(chain));
    }
    flush_gathered();
    return QueueProgress::kMore;
}

/// The chain goes back to the driver whatever is in it: unless it is gathered, when it is
/// destroyed.
void VsockEngine::take_packet(DescriptorChain chain) {
    counters_.packets_from_guest.add();
    ChainReader reader = chain.take_reader();
    const auto header = reader.read_object<PacketHeader>();
    if (!header) {
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
    if (gathered_.connection != connection ||
        (connection != nullptr && (parsed.fault || parsed.packet.operation != Operation::kData))) {
        flush_gathered();
    }
    if (parsed.fault) {
        if (connection != nullptr && !parsed.is_reset) {
            end(*connection, EndReason::kMalformed);
        } else {
            answer_with_reset(parsed, EndReason::kMalformed);
        }
        return;
    }
    if (connection == nullptr) {
        if (parsed.packet.operation != Operation::kRequest) {
            answer_with_reset(parsed, EndReason::kNoConnection);
        } else if (key.peer_cid != kHostCid && Sibling::find(key.peer_cid) == nullptr) {
            answer_with_reset(parsed, EndReason::kNoSuchCid);
        } else if (table_.is_full()) {
            answer_with_reset(parsed, EndReason::kTooManyConnections);
        } else {
            begin_from_guest(key, parsed.packet);
        }
        return;
    }
    connection->to_guest.update(parsed.packet.buffer_bytes, parsed.packet.forwarded_bytes);
    if (connection->wants_credit && connection->to_guest.available() > 0) {
        connection->wants_credit = false;
        mark_readable(*connection);
    }
    switch (parsed.packet.operation) {
        case Operation::kRequest:
            end(*connection, EndReason::kProtocol);
            return;
        case Operation::kResponse:
            take_response(*connection);
            return;
        case Operation::kReset:
            take_reset(*connection);
            return;
        case Operation::kShutdown:
            take_shutdown(*connection, parsed.packet.flags);
            return;
        case Operation::kData:
            take_data(*connection, parsed.packet, chain, reader);
            return;
        case Operation::kCreditUpdate:
            return;
        case Operation::kCreditRequest:
            if (connection->phase == Phase::kOpen) {
                owe(*connection, kPendingCreditUpdate);
            }
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
    if (resets_.size() < kResetsMax) {
        PacketAddresses from = parsed.addresses;
        // A guest is answered at its own address, whatever it says that it has.
        from.source_cid = options_.guest_cid;
        resets_.push_back(make_reset_for(from));
        wake_receive();
    }
}

void VsockEngine::begin_from_guest(const ConnectionKey& key, const Packet& packet) {
    Connection& connection = table_.create(options_.window_bytes, options_.window_bytes_max);
    counters_.connections.add();
    const bool is_new = table_.set_key(connection, key);
    OUTRIGGER_ASSERT(is_new);
    connection.phase = Phase::kDialing;
    connection.to_guest.update(packet.buffer_bytes, packet.forwarded_bytes);
    connection.dial_until = std::chrono::steady_clock::now() + kDialMax;
    update_listeners();
    if (key.peer_cid == kHostCid) {
        dial_host(connection);
    } else {
        call_sibling(connection);
    }
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
    }
    if ((flags & kShutdownSend) != 0) {
        connection.guest_ended = true;
    }
    if (connection.guest_ended) {
        if (connection.guest_deaf && !connection.is_written() && !connection.deadline) {
            set_deadline(connection, kGuestCloseMax);
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

void VsockEngine::take_data(Connection& connection,
                            const Packet& packet,
                            DescriptorChain& chain,
                            ChainReader& reader) {
    if (connection.phase == Phase::kResetting) {
        return;
    }
    if (connection.phase != Phase::kOpen || connection.guest_ended) {
        end(connection, EndReason::kProtocol);
        return;
    }
    if (!connection.from_guest.admit(packet.length)) {
        end(connection, EndReason::kCreditExceeded);
        return;
    }
    if (connection.host_deaf) {
        on_forwarded(connection, packet.length);
        return;
    }
    if (connection.is_stream()) {
        if (packet.length == 0) {
            return;
        }
        if (connection.backlog.empty()) {
            gather(connection, packet, chain, reader);
        } else {
            keep_for_later(connection, packet.length, reader);
        }
        return;
    }
    const bool was_idle = !connection.backlog.has_message();
    keep_for_later(connection, packet.length, reader);
    if (connection.phase != Phase::kOpen) {
        return;  // it has just failed
    }
    if ((packet.flags & kEndOfMessage) == 0) {
        on_forwarded(connection, 0);
    } else if (!connection.backlog.end_message((packet.flags & kEndOfRecord) != 0)) {
        end(connection, EndReason::kTooManyMessages);
    } else if (was_idle) {
        write_backlog(connection);
    }
}

void VsockEngine::gather(Connection& connection,
                         const Packet& packet,
                         DescriptorChain& chain,
                         ChainReader& reader) {
    const std::span<const iovec> segments = reader.take_iovecs();
    if (gathered_.pieces.size() + segments.size() > kPiecesMax ||
        gathered_.bytes >= kGatherBytesMax) {
        flush_gathered();
        if (connection.phase != Phase::kOpen) {
            return;  // it has just failed
        }
        if (connection.host_deaf) {
            on_forwarded(connection, packet.length);
            return;
        }
    }
    uint32_t wanted = packet.length;
    const bool fits = segments.size() <= kPiecesMax && connection.backlog.empty();
    std::span<std::byte> room;
    if (!fits) {
        room = connection.backlog.extend(packet.length);
    }
    for (const iovec& segment : segments) {
        iovec piece = segment;
        piece.iov_len = std::min<size_t>(piece.iov_len, wanted);
        if (piece.iov_len == 0) {
            break;
        }
        wanted -= static_cast<uint32_t>(piece.iov_len);
        if (fits) {
            gathered_.pieces.push_back(piece);
        } else {
            std::memcpy(room.data(), piece.iov_base, piece.iov_len);
            room = room.subspan(piece.iov_len);
        }
    }
    if (!fits) {
        if (transmit_->memory_was_lost()) {
            end(connection, EndReason::kMalformed);
            return;
        }
        write_backlog(connection);
        return;
    }
    gathered_.connection = &connection;
    gathered_.bytes += packet.length;
    gathered_.chains.push_back(std::move(chain));
}

void VsockEngine::keep_for_later(Connection& connection, uint32_t bytes, ChainReader& reader) {
    (void)reader.read(connection.backlog.extend(bytes));
    if (transmit_->memory_was_lost()) {
        // They may be zeroes of our own.
        end(connection, EndReason::kMalformed);
    }
}

void VsockEngine::flush_gathered() {
    Connection* const connection = std::exchange(gathered_.connection, nullptr);
    if (connection != nullptr) {
        const ssize_t count = send_pieces(connection->socket.get(), gathered_.pieces);
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
    std::span<std::byte> room = connection.backlog.extend(gathered_.bytes - written);
    for (const iovec& piece : gathered_.pieces) {
        const size_t skipped = std::min(written, piece.iov_len);
        written -= skipped;
        const size_t count = piece.iov_len - skipped;
        if (count > 0) {
            std::memcpy(
                room.data(), static_cast<const std::byte*>(piece.iov_base) + skipped, count);
            room = room.subspan(count);
        }
    }
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
    if (waits || connection.phase == Phase::kLingering) {
        if (!waits) {
            destroy(connection);
        }
        return waits;
    }
    switch (os_error) {
        case ECONNRESET:
            connection.host_was_reset = true;
            [[fallthrough]];
        case EPIPE: {
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

void VsockEngine::write_backlog(Connection& connection) {
    HostBacklog& backlog = connection.backlog;
    // Each turn takes bytes or a message out of it, so this ends.
    while (connection.is_stream() ? backlog.bytes() > 0 : backlog.has_message()) {
        const ssize_t count = connection.is_stream()
                                  ? send_bytes(connection.socket.get(), backlog.stream())
                                  : write_message(connection);
        if (count < 0) {
            if (on_write_error(connection, errno)) {
                // Anew: where memory was short for a moment the socket never stopped being
                // writable, and no event would come.
                connection.waits_to_write = false;
                set_waits_to_write(connection, true);
            }
            return;
        }
        if (connection.is_stream()) {
            backlog.take_bytes(static_cast<size_t>(count));
        } else {
            backlog.take_message();
        }
        on_forwarded(connection, static_cast<uint32_t>(count));
    }
    set_waits_to_write(connection, false);
    after_backlog(connection);
}

/// send() of the first message of the backlog: the payload's bytes, or -1 and errno.
ssize_t VsockEngine::write_message(const Connection& connection) {
    const HostBacklog::Message message = connection.backlog.message();
    if (!connection.is_of_sibling()) {
        return send_bytes(connection.socket.get(), message.bytes);
    }
    // Unix sockets have no MSG_EOR.
    SiblingMessageFlags flags = message.ends_record ? kSiblingEndOfRecord : 0;
    const std::array<iovec, 2> pieces{
        iovec{.iov_base = &flags, .iov_len = sizeof flags},
        // SAFETY: sendmsg() does not write through it; its type serves recvmsg(), too.
        iovec{.iov_base = const_cast<std::byte*>(message.bytes.data()),
              .iov_len = message.bytes.size()}};
    const ssize_t count = send_pieces(connection.socket.get(), pieces);
    return count < 0 ? count : count - static_cast<ssize_t>(sizeof flags);
}

/// The host has taken so much: there is room for as much of the guest's again.
void VsockEngine::on_forwarded(Connection& connection, uint32_t bytes) {
    connection.from_guest.note_forwarded(bytes);
    if (!connection.host_deaf) {
        counters_.bytes_from_guest.add(bytes);
    }
    const uint32_t guest_buffer = connection.to_guest.buffer_bytes();
    if (connection.phase != Phase::kOpen) {
        return;
    }
    if (connection.from_guest.should_tell(guest_buffer)) {
        if (connection.backlog.empty() && connection.from_guest.bytes() < guest_buffer) {
            connection.from_guest.grow();
        }
        owe(connection, kPendingCreditUpdate);
    } else if (!connection.is_stream() && connection.backlog.has_part() &&
               connection.from_guest.has_news()) {
        // The guest may need all room for the rest of the message, and this part cannot leave
        // before that has come.
        owe(connection, kPendingCreditUpdate);
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
        finish(connection);
        return;
    }
    if (!connection.send_ended) {
        connection.send_ended = true;
        (void)::shutdown(connection.socket.get(), SHUT_WR);
    }
}

}  // namespace outrigger::vsock
