// SPDX-License-Identifier: Apache-2.0
// The engine's way from the host to the guest.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/uio.h>

#include "devices/vsock/engine_times.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

/// Steps (a control packet, or a read of one connection) before the worker's other queues have
/// their turn.
constexpr int kBatch = 64;

/// What one connection may read before the next has its turn.
constexpr size_t kReadBytesMax = 256 * 1024;
constexpr size_t kLandingsMax = 256;
constexpr size_t kPiecesMax = 1024;  // UIO_MAXIOV

/// Bytes at the start of a buffer, whatever pieces it is in.
void write_front(std::span<const iovec> segments, std::span<const std::byte> bytes) {
    for (const iovec& segment : segments) {
        const size_t count = std::min(segment.iov_len, bytes.size());
        if (count > 0) {
            std::memcpy(segment.iov_base, bytes.data(), count);
        }
        bytes = bytes.subspan(count);
        if (bytes.empty()) {
            return;
        }
    }
}

std::span<const std::byte> bytes_of(const PacketHeader& header) {
    return std::as_bytes(std::span(&header, 1));
}

}  // namespace

QueueProgress VsockEngine::fill_receive_queue() {
    if (receive_->is_ending()) [[unlikely]] {
        // An earlier process took them, and nothing is there to put in.
        while (std::optional<DescriptorChain> chain = receive_->pop()) {
            chain->complete(0);
        }
        return QueueProgress::kDrained;
    }
    for (int step = 0; step < kBatch; ++step) {
        if (!resets_.empty()) {
            if (!put_header(resets_.front())) {
                return QueueProgress::kDrained;
            }
            resets_.pop_front();
            if (transmit_waits_ && resets_.size() <= kResetsMax / 2 && transmit_ != nullptr) {
                transmit_waits_ = false;
                transmit_->request_processing();
            }
        } else if (Connection* const owing = owing_.front()) {
            if (!send_control(*owing)) {
                return QueueProgress::kDrained;
            }
        } else if (Connection* const readable = readable_.front()) {
            if (fill_from(*readable) == Filled::kNoBuffer) {
                return QueueProgress::kDrained;
            }
        } else {
            return QueueProgress::kWaiting;
        }
    }
    return QueueProgress::kMore;
}

std::optional<DescriptorChain> VsockEngine::pop_receive_chain() {
    std::optional<DescriptorChain> chain = receive_->pop();
    if (chain && chain->writable_bytes() < kHeaderBytes) {
        malformed_limiter_.log(
            LogLevel::kWarning,
            "vsock cid {}: a receive buffer of {} bytes has no room for a header",
            options_.guest_cid,
            chain->writable_bytes());
        receive_->break_ring(RingError::kDevice);
        return std::nullopt;
    }
    return chain;
}

// --- Control packets ---------------------------------------------------------------------------

bool VsockEngine::put_header(const PacketHeader& header) {
    std::optional<DescriptorChain> chain = pop_receive_chain();
    if (!chain) {
        return false;
    }
    (void)chain->take_writer().write(bytes_of(header));
    chain->complete(kHeaderBytes);
    counters_.packets_to_guest.add();
    return true;
}

/// Every packet of a connection brings our credit along.
PacketHeader VsockEngine::header_for(Connection& connection,
                                     Operation operation,
                                     uint32_t length,
                                     uint32_t flags) {
    connection.from_guest.note_told();
    return {.source_cid = connection.key.peer_cid,
            .destination_cid = options_.guest_cid,
            .source_port = connection.key.peer_port,
            .destination_port = connection.key.guest_port,
            .length = length,
            .type = static_cast<uint16_t>(connection.key.type),
            .operation = static_cast<uint16_t>(operation),
            .flags = flags,
            .buffer_bytes = connection.from_guest.bytes(),
            .forwarded_bytes = connection.from_guest.forwarded()};
}

/// One of those that the connection owes, in the order in which they must leave. False: there is
/// no buffer.
bool VsockEngine::send_control(Connection& connection) {
    struct Kind {
        uint32_t pending;
        Operation operation;
    };

    constexpr std::array kKinds{Kind{kPendingReset, Operation::kReset},
                                Kind{kPendingRequest, Operation::kRequest},
                                Kind{kPendingResponse, Operation::kResponse},
                                Kind{kPendingCreditRequest, Operation::kCreditRequest},
                                Kind{kPendingCreditUpdate, Operation::kCreditUpdate},
                                Kind{kPendingShutdown, Operation::kShutdown}};
    const auto* const kind = std::ranges::find_if(
        kKinds, [&](const Kind& each) { return (connection.pending & each.pending) != 0; });
    if (kind != kKinds.end()) {
        const uint32_t flags = kind->operation != Operation::kShutdown
                                   ? 0
                                   : (connection.host_ended ? kShutdownSend : 0) |
                                         (connection.host_deaf ? kShutdownReceive : 0);
        if (!put_header(header_for(connection, kind->operation, 0, flags))) {
            return false;
        }
        connection.pending &= ~(kind->pending | kPendingCreditUpdate);
        if (kind->operation == Operation::kReset) {
            destroy(connection);
            return true;
        }
    }
    if (connection.pending == 0) {
        owing_.remove(connection);
    }
    return true;
}

// --- Data --------------------------------------------------------------------------------------

VsockEngine::Filled VsockEngine::fill_from(Connection& connection) {
    return connection.is_stream() ? fill_stream(connection) : fill_message(connection);
}

/// False: the guest has no room for the connection's bytes, and was asked to say when it has. Any
/// packet of the connection may bring the answer.
bool VsockEngine::has_credit(Connection& connection) {
    if (connection.to_guest.available() > 0) {
        return true;
    }
    connection.wants_credit = true;
    readable_.remove(connection);
    owe(connection, kPendingCreditRequest);
    return false;
}

VsockEngine::Filled VsockEngine::fill_stream(Connection& connection) {
    // Before any buffer is popped it is known how many bytes there are: a buffer that waits for
    // some would hold up the guest's memory.
    const size_t there = readable_bytes(connection.socket.get());
    if (there == 0) {
        on_nothing_readable(connection);
        return Filled::kNothing;
    }
    if (!has_credit(connection)) {
        return Filled::kNothing;
    }
    const size_t wanted = std::min({there, kReadBytesMax, size_t{connection.to_guest.available()}});
    if (!collect_landings(wanted)) {
        return Filled::kNoBuffer;
    }
    const ssize_t count =
        ::readv(connection.socket.get(), pieces_.data(), static_cast<int>(pieces_.size()));
    const int os_error = count < 0 ? errno : 0;
    if (os_error == EFAULT && receive_->buffers_were_lost(pieces_)) {
        landings_.clear();
        pieces_.clear();
        return Filled::kNoBuffer;
    }
    finish_landings(connection, count > 0 ? static_cast<size_t>(count) : 0);
    if (os_error != 0 && os_error != EAGAIN && os_error != EINTR) {
        end(connection, EndReason::kHostError);
        return Filled::kNothing;
    }
    if (count >= 0 && static_cast<size_t>(count) == there) {
        // What has come meanwhile is told by an event of its own.
        connection.readable = connection.end_seen;
    }
    if (connection.readable) {
        readable_.move_to_back(connection);
    } else {
        readable_.remove(connection);
    }
    return Filled::kYes;
}

/// Takes buffers with room for `bytes` in all, or as much as there are. False: there is none.
bool VsockEngine::collect_landings(size_t bytes) {
    landings_.clear();
    pieces_.clear();
    while (bytes > 0 && landings_.size() < kLandingsMax && pieces_.size() < kPiecesMax / 2) {
        std::optional<DescriptorChain> chain = pop_receive_chain();
        if (!chain) {
            break;
        }
        const std::span<const iovec> segments = chain->take_writer().take_iovecs();
        const auto room_max = static_cast<size_t>(chain->writable_bytes()) - kHeaderBytes;
        size_t room = std::min({room_max, size_t{kPayloadBytesMax}, bytes});
        size_t skipped = kHeaderBytes;
        size_t used = 0;
        for (const iovec& segment : segments) {
            const size_t skip = std::min(skipped, segment.iov_len);
            skipped -= skip;
            const size_t count = std::min(segment.iov_len - skip, room - used);
            if (count > 0 && pieces_.size() < kPiecesMax) {
                pieces_.push_back({.iov_base = static_cast<std::byte*>(segment.iov_base) + skip,
                                   .iov_len = count});
                used += count;
            }
        }
        bytes -= used;
        landings_.push_back({.chain = *std::move(chain),
                             .segments = segments,
                             .room = static_cast<uint32_t>(used)});
    }
    return !landings_.empty();
}

/// `bytes` have been read into them.
void VsockEngine::finish_landings(Connection& connection, size_t bytes) {
    connection.to_guest.note_sent(static_cast<uint32_t>(bytes));
    counters_.bytes_to_guest.add(bytes);
    for (Landing& landing : landings_) {
        const auto count = static_cast<uint32_t>(std::min<size_t>(bytes, landing.room));
        bytes -= count;
        // A buffer without room for payload, or one too many, goes back with news that never hurts.
        const Operation operation = count > 0 ? Operation::kData : Operation::kCreditUpdate;
        write_front(landing.segments, bytes_of(header_for(connection, operation, count)));
        landing.chain.complete(static_cast<uint32_t>(kHeaderBytes) + count);
        counters_.packets_to_guest.add();
    }
    landings_.clear();
    pieces_.clear();
}

/// An event said that there is something: the end, or bytes that were read already.
void VsockEngine::on_nothing_readable(Connection& connection) {
    const ssize_t seen = look_for_byte(connection.socket.get());
    if (seen > 0) {
        readable_.move_to_back(connection);  // they have just come
        return;
    }
    if (seen < 0 && errno != EAGAIN && errno != EINTR) {
        end(connection, errno == ECONNRESET ? EndReason::kHostReset : EndReason::kHostError);
        return;
    }
    connection.readable = false;
    readable_.remove(connection);
    if (seen == 0) {
        on_host_ended(connection);
    }
}

/// All that the host sent has gone to the guest; the other direction goes on, unless the host has
/// left altogether.
void VsockEngine::on_host_ended(Connection& connection) {
    if (connection.host_was_reset) {
        end(connection, EndReason::kHostReset);
        return;
    }
    connection.host_ended = true;
    owe(connection, kPendingShutdown);
    if (connection.hung_up) {
        on_host_deaf(connection);
    }
    if (connection.phase == Phase::kOpen && connection.host_deaf) {
        set_deadline(connection, kHostCloseMax);
    }
}

bool VsockEngine::fetch_message(Connection& connection) {
    const std::optional<NextMessage> next = next_message(connection.socket.get());
    if (!next) {
        if (errno != EAGAIN && errno != EINTR) {
            end(connection, errno == ECONNRESET ? EndReason::kHostReset : EndReason::kHostError);
            return false;
        }
        connection.readable = false;
        readable_.remove(connection);
        return false;
    }
    if (next->is_end) {
        connection.readable = false;
        readable_.remove(connection);
        on_host_ended(connection);
        return false;
    }
    const size_t prefix = connection.is_of_sibling() ? sizeof(SiblingMessageFlags) : 0;
    if (next->bytes < prefix) {
        end(connection, EndReason::kHostError);  // our own device does not send that
        return false;
    }
    if (next->bytes - prefix > connection.to_guest.buffer_bytes()) {
        // The guest takes none of it until it has all of it.
        end(connection, EndReason::kMessageTooLong);
        return false;
    }
    connection.message.resize(next->bytes);
    const ssize_t count = receive_bytes(connection.socket.get(), connection.message, false);
    if (count != static_cast<ssize_t>(next->bytes)) {
        end(connection, EndReason::kHostError);
        return false;
    }
    connection.message_sent = prefix;
    connection.message_ends_record =
        prefix > 0 && connection.message.front() == std::byte{kSiblingEndOfRecord};
    connection.has_message = true;
    return true;
}

/// One packet of the message that is on its way, or of the next.
VsockEngine::Filled VsockEngine::fill_message(Connection& connection) {
    if (!connection.has_message && !fetch_message(connection)) {
        return Filled::kNothing;
    }
    const size_t left = connection.message.size() - connection.message_sent;
    if (left > 0 && !has_credit(connection)) {
        return Filled::kNothing;
    }
    std::optional<DescriptorChain> chain = pop_receive_chain();
    if (!chain) {
        return Filled::kNoBuffer;
    }
    const size_t count = std::min({left,
                                   size_t{connection.to_guest.available()},
                                   size_t{kPayloadBytesMax},
                                   static_cast<size_t>(chain->writable_bytes()) - kHeaderBytes});
    const bool is_last = count == left;
    const bool has_news = count > 0 || is_last;
    const uint32_t flags =
        is_last ? kEndOfMessage | (connection.message_ends_record ? kEndOfRecord : 0) : 0;
    ChainWriter writer = chain->take_writer();
    const PacketHeader header = header_for(connection,
                                           has_news ? Operation::kData : Operation::kCreditUpdate,
                                           static_cast<uint32_t>(count),
                                           flags);
    (void)writer.write(bytes_of(header));
    (void)writer.write(std::span(connection.message).subspan(connection.message_sent, count));
    chain->complete(static_cast<uint32_t>(kHeaderBytes + count));
    counters_.packets_to_guest.add();
    counters_.bytes_to_guest.add(count);
    connection.to_guest.note_sent(static_cast<uint32_t>(count));
    connection.message_sent += count;
    if (is_last) {
        connection.drop_message();
        readable_.move_to_back(connection);
    }
    return Filled::kYes;
}

}  // namespace outrigger::vsock
