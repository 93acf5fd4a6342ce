// SPDX-License-Identifier: Apache-2.0
/// Cuts a byte stream into messages, without ever waiting and whatever the pieces are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/messages.h"

namespace outrigger::wire {

/// A whole message as it came: sizes are checked by the stream, meaning is not.
struct Message {
    Header header{};
    std::vector<std::byte> payload;
    std::vector<UniqueFd> fds;

    [[nodiscard]] bool needs_reply() const { return (header.flags & kFlagNeedReply) != 0; }
};

/// What try_receive() found.
enum class StreamStatus : uint8_t {
    kMessage,           ///< `message` is whole
    kIncomplete,        ///< more bytes must come first
    kEnded,             ///< end of stream between two messages
    kEndedMidMessage,   ///< end of stream inside one
    kBadVersion,        ///< version is not 1
    kUnexpectedReply,   ///< a request with the reply flag, or a reply without it
    kTooLarge,          ///< payload above kPayloadBytesMax
    kTooManyFds,        ///< more than may come now, or some were lost on the way (EMFILE)
    kFdsInsideMessage,  ///< descriptors on bytes behind the first of a message
};

/// Thread-bound. After anything but kMessage and kIncomplete the stream is unusable.
class MessageStream final {
  public:
    enum class Expect : uint8_t { kRequests, kReplies };

    /// `socket` is borrowed.
    MessageStream(int socket, Expect expect) : socket_(socket), expect_(expect) {}

    /// Reads what is there. The socket may be blocking or not; call it when it is readable. A
    /// message that begins now may bring `fds_max` descriptors: more are closed at its first byte,
    /// and not kept until the rest has come.
    [[nodiscard]] StreamStatus try_receive(Message& message, size_t fds_max = kMessageFdsMax);

    /// Closes the descriptors of a message whose rest nobody waits for; the stream is unusable
    /// then.
    void drop_partial() { partial_ = {}; }

    /// True when part of a message has come: the peer owes the rest soon.
    [[nodiscard]] bool inside_message() const { return header_bytes_ > 0; }

  private:
    [[nodiscard]] StreamStatus accept_header();

    int socket_;
    Expect expect_;
    std::array<std::byte, sizeof(Header)> header_{};
    size_t header_bytes_ = 0;
    size_t payload_bytes_ = 0;
    Message partial_;
};

}  // namespace outrigger::wire
