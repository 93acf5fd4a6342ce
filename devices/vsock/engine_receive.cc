// SPDX-License-Identifier: Apache-2.0
// The engine's way from the host to the guest.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/socket.h>
#include <sys/uio.h>

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

void read_front(std::span<const iovec> segments, std::span<std::byte> out) {
    for (const iovec& segment : segments) {
        const size_t count = std::min(segment.iov_len, out.size());
        if (count > 0) {
            std::memcpy(out.data(), segment.iov_base, count);
        }
        out = out.subspan(count);
    }
}

/// Those that the driver is to hear the end of come first.
bool owes_reset(const Connection* connection) {
    return connection != nullptr && (connection->pending & kPendingReset) != 0;
}

std::span<const std::byte> bytes_of(const PacketHeader& header) {
    return std::as_bytes(std::span(&header, 1));
}

}  // namespace

QueueProgress VsockEngine::fill_receive_queue() {
    find_place(*receive_, receive_found_, ledger_.numbers().receive_next);
    if (!finish_resumed() || !finish_landed()) {
        return QueueProgress::kDrained;
    }
    if (receive_->is_ending()) [[unlikely]] {
        return end_receive_queue();
    }
    for (int step = 0; step < kBatch; ++step) {
        if (resets_waiting() > 0) {
            if (!send_reset()) {
                return QueueProgress::kDrained;
            }
        } else if (news_are_held_ && !owes_reset(owing_.front())) [[unlikely]] {
            return QueueProgress::kWaiting;
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

/// An earlier process took them, and nothing is there to put in.
QueueProgress VsockEngine::end_receive_queue() {
    while (std::optional<DescriptorChain> chain = receive_->pop()) {
        chain->complete(0);
    }
    return QueueProgress::kDrained;
}

/// Buffers that an earlier process filled, and of which the driver has not heard. False: there are
/// some that cannot be had yet.
bool VsockEngine::finish_resumed() {
    // Ends with the buffers of that process.
    while (true) {
        const std::optional<uint64_t> next = receive_->next_resumed();
        if (!next || *next >= ledger_.numbers().receive_next) {
            return true;
        }
        std::optional<DescriptorChain> chain = pop_receive_chain();
        if (!chain) {
            return false;
        }
        // What it wrote is still there: the buffer is not the driver's yet. One that is changed
        // all the same is the driver's own loss.
        PacketHeader header{};
        read_front(chain->take_writer().take_iovecs(),
                   std::as_writable_bytes(std::span(&header, 1)));
        const auto room = static_cast<uint32_t>(chain->writable_bytes() - kHeaderBytes);
        chain->complete(static_cast<uint32_t>(kHeaderBytes) +
                        std::min(header.length.value(), room));
    }
}

/// Buffers that bytes of a socket were read into, and no more. False: some of them cannot be had
/// yet.
bool VsockEngine::finish_landed() {
    Numbers& numbers = ledger_.numbers();
    if (numbers.landed_slot == kNoSlot) [[likely]] {
        return true;
    }
    Connection* const connection = table_.find_in(numbers.landed_slot);
    if (connection == nullptr || connection->phase != Phase::kOpen || !connection->is_stream()) {
        numbers.landed_slot = kNoSlot;
        drop_landings();
        return true;
    }
    if (landing_room_ < numbers.landed_bytes) {
        (void)collect_landings(numbers.landed_bytes - landing_room_);
    }
    if (landing_room_ < numbers.landed_bytes && receive_->next_resumed()) {
        return false;
    }
    finish_landings(*connection, numbers.landed_bytes);
    return true;
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

/// A buffer that holds `header`, to be completed when that is committed.
std::optional<DescriptorChain> VsockEngine::put_header(const PacketHeader& header) {
    std::optional<DescriptorChain> chain = pop_receive_chain();
    if (chain) {
        (void)chain->take_writer().write(bytes_of(header));
        ledger_.numbers().receive_next = chain->sequence() + 1;
        counters_.packets_to_guest.add();
    }
    return chain;
}

/// The first of those that belong to no connection. False: there is no buffer.
bool VsockEngine::send_reset() {
    Numbers& numbers = ledger_.numbers();
    PacketAddresses answered = ledger_.reset(numbers.resets_begin);
    answered.source_cid = options_.guest_cid;
    std::optional<DescriptorChain> chain = put_header(make_reset_for(answered));
    if (!chain) {
        return false;
    }
    ++numbers.resets_begin;
    commit_numbers();
    chain->complete(kHeaderBytes);
    if (transmit_waits_ && resets_waiting() <= kResetsMax / 2 && transmit_ != nullptr) {
        transmit_waits_ = false;
        transmit_->request_processing();
    }
    return true;
}

/// Every packet of a connection brings our credit along.
PacketHeader VsockEngine::header_for(Connection& connection,
                                     Operation operation,
                                     uint32_t length,
                                     uint32_t flags) {
    if (connection.sibling.valid()) {
        (void)free_room(connection);
    }
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
        std::optional<DescriptorChain> chain =
            put_header(header_for(connection, kind->operation, 0, flags));
        if (!chain) {
            return false;
        }
        connection.pending &= ~(kind->pending | kPendingCreditUpdate);
        if (kind->operation == Operation::kReset) {
            destroy(connection);
        } else {
            if (connection.pending == 0) {
                owing_.remove(connection);
            }
            commit(connection);
        }
        chain->complete(kHeaderBytes);
        return true;
    }
    owing_.remove(connection);
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
    commit(connection);
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
    msghdr message{};
    message.msg_iov = pieces_.data();
    message.msg_iovlen = pieces_.size();
    const ssize_t count = ledger_.receive(
        TransferKind::kLand, slot_of(connection.id), connection.socket.get(), message);
    const int os_error = count < 0 ? errno : 0;
    if (os_error == EFAULT && receive_->buffers_were_lost(pieces_)) {
        drop_landings();
        return Filled::kNoBuffer;
    }
    if (os_error == ECONNRESET) {
        // Told once, and before the bytes that came before: these come next.
        connection.host_was_reset = true;
    }
    finish_landings(connection, count > 0 ? static_cast<size_t>(count) : 0);
    if (os_error != 0 && os_error != EAGAIN && os_error != EINTR && os_error != ECONNRESET) {
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

/// Takes buffers with room for `bytes` more, or as much as there are. False: there is none.
bool VsockEngine::collect_landings(size_t bytes) {
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
        landing_room_ += used;
        landings_.push_back({.chain = *std::move(chain),
                             .segments = segments,
                             .room = static_cast<uint32_t>(used)});
    }
    return !landings_.empty();
}

/// They go back as they are.
void VsockEngine::drop_landings() {
    for (Landing& landing : landings_) {
        landing.chain.complete(0);
    }
    landings_.clear();
    pieces_.clear();
    landing_room_ = 0;
}

/// `bytes` have been read into them.
void VsockEngine::finish_landings(Connection& connection, size_t bytes) {
    Numbers& numbers = ledger_.numbers();
    bytes = std::min(bytes, landing_room_);
    connection.to_guest.note_sent(static_cast<uint32_t>(bytes));
    counters_.bytes_to_guest.add(bytes);
    for (Landing& landing : landings_) {
        landing.bytes = static_cast<uint32_t>(std::min<size_t>(bytes, landing.room));
        bytes -= landing.bytes;
        // A buffer without room for payload, or one too many, goes back with news that never hurts.
        const Operation operation = landing.bytes > 0 ? Operation::kData : Operation::kCreditUpdate;
        write_front(landing.segments, bytes_of(header_for(connection, operation, landing.bytes)));
        numbers.receive_next = landing.chain.sequence() + 1;
        counters_.packets_to_guest.add();
    }
    numbers.landed_slot = kNoSlot;
    ask_guest(connection);
    commit(connection);
    for (Landing& landing : landings_) {
        landing.chain.complete(static_cast<uint32_t>(kHeaderBytes) + landing.bytes);
    }
    landings_.clear();
    pieces_.clear();
    landing_room_ = 0;
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
        const ConnectionId id = connection.id;
        on_host_ended(connection);
        commit_if_there(id);
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
        set_deadline(connection, options_.host_close_timeout);
    }
}

/// Was that error a reset? Sockets of messages tell of it once, and before the messages that came
/// before: what was asked is to be asked again.
bool VsockEngine::was_told_of_reset(Connection& connection, int os_error) {
    if (os_error != ECONNRESET || connection.host_was_reset) {
        return false;
    }
    connection.host_was_reset = true;
    commit(connection);
    return true;
}

bool VsockEngine::fetch_message(Connection& connection) {
    std::optional<NextMessage> next = next_message(connection.socket.get());
    if (!next && was_told_of_reset(connection, errno)) {
        next = next_message(connection.socket.get());
    }
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
        const ConnectionId id = connection.id;
        on_host_ended(connection);
        commit_if_there(id);
        return false;
    }
    const size_t prefix = connection.is_of_sibling() ? sizeof(SiblingMessageFlags) : 0;
    if (next->bytes < prefix) {
        end(connection, EndReason::kHostError);  // our own device does not send that
        return false;
    }
    if (next->bytes - prefix > connection.to_guest.buffer_bytes() && connection.message_sent == 0) {
        // The guest takes none of it until it has all of it.
        end(connection, EndReason::kMessageTooLong);
        return false;
    }
    connection.message.resize(next->bytes);
    constexpr bool kPeek = true;
    ssize_t count = receive_bytes(connection.socket.get(), connection.message, kPeek);
    if (count < 0 && was_told_of_reset(connection, errno)) {
        count = receive_bytes(connection.socket.get(), connection.message, kPeek);
    }
    // An earlier process may have sent some of it.
    if (count != static_cast<ssize_t>(next->bytes) || connection.message_sent > next->bytes) {
        end(connection, EndReason::kHostError);
        return false;
    }
    connection.message_sent = std::max(connection.message_sent, prefix);
    connection.message_ends_record =
        prefix > 0 && connection.message.front() == std::byte{kSiblingEndOfRecord};
    connection.has_message = true;
    return true;
}

/// The message at the front of the socket is with the guest.
void VsockEngine::drop_from_socket(Connection& connection) {
    connection.message_over = false;
    connection.message_sent = 0;
    constexpr size_t kItsStart = 1;
    if (take_whole(connection, kItsStart)) {
        commit(connection);
    } else {
        end(connection, EndReason::kHostError);
    }
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
    ledger_.numbers().receive_next = chain->sequence() + 1;
    counters_.packets_to_guest.add();
    counters_.bytes_to_guest.add(count);
    connection.to_guest.note_sent(static_cast<uint32_t>(count));
    connection.message_sent += count;
    connection.message_over = is_last;
    ask_guest(connection);
    commit(connection);
    chain->complete(static_cast<uint32_t>(kHeaderBytes + count));
    if (is_last) {
        connection.drop_message();
        readable_.move_to_back(connection);
        drop_from_socket(connection);
    }
    return Filled::kYes;
}

}  // namespace outrigger::vsock
