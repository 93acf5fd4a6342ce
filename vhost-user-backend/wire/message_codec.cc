// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/wire/message_codec.h"

#include <cstring>
#include <iterator>
#include <utility>

#include "vhost-user-backend/wire/fd_passing.h"
#include "vhost-user-backend/wire/request_table.h"

namespace outrigger::wire {

StreamStatus MessageStream::accept_header() {
    Header& header = partial_.header;
    std::memcpy(&header, header_.data(), sizeof header);
    if ((header.flags & kFlagVersionMask) != kVersion) {
        return StreamStatus::kBadVersion;
    }
    const bool is_reply = (header.flags & kFlagReply) != 0;
    if (is_reply != (expect_ == Expect::kReplies)) {
        return StreamStatus::kUnexpectedReply;
    }
    if (header.size > kPayloadBytesMax) {
        return StreamStatus::kTooLarge;
    }
    partial_.payload.resize(header.size);
    return StreamStatus::kIncomplete;
}

StreamStatus MessageStream::try_receive(Message& message, size_t fds_max) {
    // Exactly the header first, then exactly the payload: descriptors stay with their message, and
    // a message behind this one stays in the socket. Bounded: each turn receives a byte or leaves.
    while (true) {
        const bool in_header = header_bytes_ < header_.size();
        const std::span<std::byte> wanted =
            in_header ? std::span(header_).subspan(header_bytes_)
                      : std::span(partial_.payload).subspan(payload_bytes_);
        if (!wanted.empty()) {
            const bool first_byte = header_bytes_ == 0;
            const ReceiveMode mode = reading_ == Reading::kTakes ? ReceiveMode::kTake
                                     : first_byte                ? ReceiveMode::kPeek
                                                                 : ReceiveMode::kPeekBytes;
            ReceiveResult received = receive_some(socket_, wanted, mode);
            switch (received.status) {
                case ReceiveStatus::kWouldBlock:
                    return StreamStatus::kIncomplete;
                case ReceiveStatus::kEnded:
                    return inside_message() ? StreamStatus::kEndedMidMessage : StreamStatus::kEnded;
                case ReceiveStatus::kFdsTruncated:
                    return StreamStatus::kTooManyFds;
                case ReceiveStatus::kData:
                    break;
            }
            if (!received.fds.empty()) {
                if (!first_byte) {
                    return StreamStatus::kFdsInsideMessage;
                }
                if (received.fds.size() > fds_max) {
                    return StreamStatus::kTooManyFds;
                }
                partial_.fds = std::move(received.fds);
            }
            (in_header ? header_bytes_ : payload_bytes_) += received.bytes;
            if (in_header && header_bytes_ == header_.size()) {
                const StreamStatus verdict = accept_header();
                if (verdict != StreamStatus::kIncomplete) {
                    return verdict;
                }
            }
            if (header_bytes_ < header_.size() || payload_bytes_ < partial_.payload.size()) {
                continue;
            }
        }
        if (peeks()) {
            drop_later_fds();
            untaken_bytes_ = header_bytes_ + payload_bytes_;
            untaken_fds_ = partial_.fds.size();
        }
        message = std::exchange(partial_, Message{});
        header_bytes_ = 0;
        payload_bytes_ = 0;
        return StreamStatus::kMessage;
    }
}

/// A peek does not end with the bytes that it was asked for: Linux goes on through the messages
/// behind them, without their bytes, until one has descriptors, and gives those. take() sees
/// whether a message had more after all.
void MessageStream::drop_later_fds() {
    const RequestDescription* request = find_frontend_request(partial_.header.request);
    if (request != nullptr && payload_size_fits(request->payload, partial_.payload)) {
        const size_t most = expected_fds(request->fds, partial_.payload).most;
        if (partial_.fds.size() > most) {
            partial_.fds.resize(most);
        }
    }
}

StreamStatus MessageStream::take() {
    return take_peeked(socket_, std::exchange(untaken_bytes_, 0), untaken_fds_);
}

StreamStatus take_peeked(int socket, size_t bytes, size_t fds) {
    std::array<std::byte, sizeof(Header) + kPayloadBytesMax> gone;
    OUTRIGGER_ASSERT(bytes <= gone.size());
    size_t fds_taken = 0;
    // Bounded: each turn takes a byte or leaves.
    while (bytes > 0) {
        const ReceiveResult received = receive_some(socket, std::span(gone).first(bytes));
        if (received.status == ReceiveStatus::kFdsTruncated) {
            return StreamStatus::kTooManyFds;
        }
        if (received.status != ReceiveStatus::kData) {
            return StreamStatus::kEndedMidMessage;
        }
        bytes -= received.bytes;
        fds_taken += received.fds.size();
    }
    return fds_taken <= fds ? StreamStatus::kMessage : StreamStatus::kFdsInsideMessage;
}

}  // namespace outrigger::wire
