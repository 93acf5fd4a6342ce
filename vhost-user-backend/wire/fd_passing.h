// SPDX-License-Identifier: Apache-2.0
/// Bytes and descriptors through a Unix stream socket: one system call each, portable to BSD and
/// macOS, where descriptors cannot be received close-on-exec in one step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/messages.h"

namespace outrigger::wire {

enum class ReceiveStatus : uint8_t {
    kData,          ///< `bytes` > 0
    kWouldBlock,    ///< nothing there now
    kEnded,         ///< the peer closed, or the connection broke
    kFdsTruncated,  ///< more descriptors than fit, or none could be installed (EMFILE)
};

struct ReceiveResult {
    ReceiveStatus status = ReceiveStatus::kEnded;
    size_t bytes = 0;
    std::vector<UniqueFd> fds;  ///< close-on-exec; those received beside kFdsTruncated are closed
};

/// What a look at a socket leaves there.
enum class ReceiveMode : uint8_t {
    kTake,       ///< nothing of it
    kPeek,       ///< bytes and descriptors; see platform::start_peeking()
    kPeekBytes,  ///< likewise, and descriptors are not looked at: each peek would make them anew
};

/// One recvmsg of at most out.size() bytes.
[[nodiscard]] ReceiveResult receive_some(int socket,
                                         std::span<std::byte> out,
                                         ReceiveMode mode = ReceiveMode::kTake);

enum class SendStatus : uint8_t {
    kSent,        ///< `bytes` > 0, with all the descriptors
    kWouldBlock,  ///< the socket is full
    kFailed,      ///< the peer is gone or the message cannot be sent; see errno
};

struct SendResult {
    SendStatus status = SendStatus::kFailed;
    size_t bytes = 0;  ///< of head and payload together
};

/// One sendmsg of `head` and `payload`, with `fds` (borrowed) on the first byte. Never waits, never
/// raises SIGPIPE. There is at least one byte to send.
[[nodiscard]] SendResult send_some(int socket,
                                   std::span<const std::byte> head,
                                   std::span<const std::byte> payload,
                                   std::span<const int> fds);

/// What is left of `text`, of which `sent` bytes were sent before, and that counts on: kSent when
/// all is. As send_some(); there may be nothing left.
[[nodiscard]] SendStatus send_rest(int socket, std::string_view text, size_t& sent);

/// The same as send_some(), and `note` has how much was sent as soon as it is: see
/// platform::send_noted_message().
[[nodiscard]] SendResult send_noted(int socket,
                                    std::span<const std::byte> head,
                                    std::span<const std::byte> payload,
                                    std::span<const int> fds,
                                    platform::NotedMessage& note);

/// Sends all of `head` and then `payload`, with `fds` (borrowed) on the first byte. Waits while
/// the socket is full, but at most `timeout_ms`. Never raises SIGPIPE.
[[nodiscard]] Result<void> send_all(int socket,
                                    std::span<const std::byte> head,
                                    std::span<const std::byte> payload,
                                    std::span<const int> fds,
                                    int timeout_ms);

}  // namespace outrigger::wire
