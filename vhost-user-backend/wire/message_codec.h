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
///
/// A stream that peeks leaves a message in the socket until take(): who dies in between leaves it
/// to the next process that reads there. What has come of a message without being whole stays
/// there, too, so that the socket is readable meanwhile: wait with a timer.
class MessageStream final {
  public:
    enum class Expect : uint8_t { kRequests, kReplies };

    enum class Reading : uint8_t { kTakes, kPeeks };

    /// `socket` is borrowed. For kPeeks platform::start_peeking() has succeeded.
    MessageStream(int socket, Expect expect, Reading reading = Reading::kTakes)
        : socket_(socket), expect_(expect), reading_(reading) {}

    /// Reads what is there. The socket may be blocking or not; call it when it is readable. A
    /// message that begins now may bring `fds_max` descriptors: more are closed at its first byte,
    /// and not kept until the rest has come.
    [[nodiscard]] StreamStatus try_receive(Message& message, size_t fds_max = kMessageFdsMax);

    /// Takes the message that was received last out of the socket, where the stream peeks; once,
    /// before the next one is looked at. kMessage, or why the peer broke the rules after all.
    [[nodiscard]] StreamStatus take();

    [[nodiscard]] bool peeks() const { return reading_ == Reading::kPeeks; }

    /// Of the message that is not whole yet.
    [[nodiscard]] size_t bytes_so_far() const { return header_bytes_ + payload_bytes_; }

    /// Closes the descriptors of a message whose rest nobody waits for; the stream is unusable
    /// then.
    void drop_partial() { partial_ = {}; }

    /// True when part of a message has come: the peer owes the rest soon.
    [[nodiscard]] bool inside_message() const { return header_bytes_ > 0; }

  private:
    [[nodiscard]] StreamStatus accept_header();
    void drop_later_fds();

    int socket_;
    Expect expect_;
    Reading reading_;
    size_t untaken_bytes_ = 0;  // of the last message, where it was only peeked
    size_t untaken_fds_ = 0;
    std::array<std::byte, sizeof(Header)> header_{};
    size_t header_bytes_ = 0;
    size_t payload_bytes_ = 0;
    Message partial_;
};

/// Takes a message of `bytes` and `fds` descriptors, which somebody has seen there, out of
/// `socket`; the descriptors are closed. kMessage; kFdsInsideMessage when there were more;
/// kEndedMidMessage when there was less.
[[nodiscard]] StreamStatus take_peeked(int socket, size_t bytes, size_t fds);

}  // namespace outrigger::wire
