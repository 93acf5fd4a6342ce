// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/wire/fd_passing.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::wire {
namespace {

// One more than a message may carry, so that the excess is seen and not silently dropped.
constexpr size_t kControlFds = kMessageFdsMax + 1;

void collect_fds(msghdr& message, std::vector<UniqueFd>& fds) {
    for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
         control = CMSG_NXTHDR(&message, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof fd);
            fds.emplace_back(fd);
        }
    }
}

}  // namespace

ReceiveResult receive_some(int socket, std::span<std::byte> out, ReceiveMode mode) {
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kControlFds * sizeof(int))> control;
    iovec range{.iov_base = out.data(), .iov_len = out.size()};
    msghdr message{};
    message.msg_iov = &range;
    message.msg_iovlen = 1;
    if (mode != ReceiveMode::kPeekBytes) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
    }

    ssize_t count;
    do {
        count = platform::receive_message(socket, message, mode != ReceiveMode::kTake);
    } while (count < 0 && errno == EINTR);

    ReceiveResult result;
    if (count < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            result.status = ReceiveStatus::kWouldBlock;
        } else if (errno == EMFILE || errno == ENFILE || errno == ETOOMANYREFS) {
            result.status = ReceiveStatus::kFdsTruncated;
        }
        return result;
    }
    collect_fds(message, result.fds);
    const bool truncated = mode != ReceiveMode::kPeekBytes && (message.msg_flags & MSG_CTRUNC) != 0;
    if (truncated || result.fds.size() > kMessageFdsMax) {
        result.fds.clear();
        result.status = ReceiveStatus::kFdsTruncated;
        return result;
    }
    if (count > 0) {
        result.status = ReceiveStatus::kData;
        result.bytes = static_cast<size_t>(count);
    }
    return result;
}

namespace {

/// A message of `head` and `payload` with `fds`, where it stands: it points into itself.
class Outgoing final {
  public:
    Outgoing(std::span<const std::byte> head,
             std::span<const std::byte> payload,
             std::span<const int> fds)
        // sendmsg does not write through these pointers.
        : ranges_{{
              {.iov_base = const_cast<std::byte*>(head.data()), .iov_len = head.size()},
              {.iov_base = const_cast<std::byte*>(payload.data()), .iov_len = payload.size()},
          }} {
        OUTRIGGER_ASSERT(fds.size() <= kMessageFdsMax);
        message_.msg_iov = ranges_.data();
        message_.msg_iovlen = ranges_.size();
        if (fds.empty()) {
            return;
        }
        message_.msg_control = control_.data();
        message_.msg_controllen =
            static_cast<decltype(message_.msg_controllen)>(CMSG_SPACE(fds.size() * sizeof(int)));
        cmsghdr* const rights = CMSG_FIRSTHDR(&message_);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len =
            static_cast<decltype(rights->cmsg_len)>(CMSG_LEN(fds.size() * sizeof(int)));
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }

    Outgoing(const Outgoing&) = delete;
    Outgoing& operator=(const Outgoing&) = delete;
    ~Outgoing() = default;

    [[nodiscard]] const msghdr& message() const { return message_; }

  private:
    std::array<iovec, 2> ranges_;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kControlFds * sizeof(int))> control_{};
    msghdr message_{};
};

/// What became of a system call that sent `count` bytes.
SendResult to_result(ssize_t count) {
    if (count > 0) {
        return {.status = SendStatus::kSent, .bytes = static_cast<size_t>(count)};
    }
    const bool full = count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS);
    return {.status = full ? SendStatus::kWouldBlock : SendStatus::kFailed, .bytes = 0};
}

}  // namespace

SendResult send_some(int socket,
                     std::span<const std::byte> head,
                     std::span<const std::byte> payload,
                     std::span<const int> fds) {
    const Outgoing outgoing(head, payload, fds);
    ssize_t count;
    do {
        count = platform::send_message(socket, outgoing.message());
    } while (count < 0 && errno == EINTR);
    return to_result(count);
}

SendStatus send_rest(int socket, std::string_view text, size_t& sent) {
    while (sent < text.size()) {
        const SendResult result =
            send_some(socket, std::as_bytes(std::span(text.substr(sent))), {}, {});
        if (result.status != SendStatus::kSent) {
            return result.status;
        }
        sent += result.bytes;
    }
    return SendStatus::kSent;
}

SendResult send_noted(int socket,
                      std::span<const std::byte> head,
                      std::span<const std::byte> payload,
                      std::span<const int> fds,
                      platform::NotedMessage& note) {
    const Outgoing outgoing(head, payload, fds);
    note.message = outgoing.message();
    ssize_t count;
    do {
        count = platform::send_noted_message(socket, note);
    } while (count < 0 && errno == EINTR);
    const int error = errno;
    note.message = {};  // it points to our stack, and whoever reads the note has another one
    errno = error;
    return to_result(count);
}

Result<void> send_all(int socket,
                      std::span<const std::byte> head,
                      std::span<const std::byte> payload,
                      std::span<const int> fds,
                      int timeout_ms) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    size_t sent = 0;
    const size_t total = head.size() + payload.size();
    while (sent < total) {
        const size_t head_sent = std::min(sent, head.size());
        const SendResult result = send_some(socket,
                                            head.subspan(head_sent),
                                            payload.subspan(sent - head_sent),
                                            sent == 0 ? fds : std::span<const int>{});
        if (result.status == SendStatus::kSent) {
            sent += result.bytes;
            continue;
        }
        if (result.status == SendStatus::kFailed) {
            return failure(error_from_errno("cannot send to the peer"));
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd writable{.fd = socket, .events = POLLOUT, .revents = 0};
        if (left.count() <= 0 || ::poll(&writable, 1, static_cast<int>(left.count())) == 0) {
            return failure(error_from_code("the peer does not read", ETIMEDOUT));
        }
    }
    return {};
}

}  // namespace outrigger::wire
