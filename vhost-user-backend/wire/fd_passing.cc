// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/wire/fd_passing.h"

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

ReceiveResult receive_some(int socket, std::span<std::byte> out) {
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kControlFds * sizeof(int))> control;
    iovec range{.iov_base = out.data(), .iov_len = out.size()};
    msghdr message{};
    message.msg_iov = &range;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();

    ssize_t count;
    do {
        count = platform::receive_message(socket, message);
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
    if ((message.msg_flags & MSG_CTRUNC) != 0 || result.fds.size() > kMessageFdsMax) {
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

Result<void> send_all(int socket,
                      std::span<const std::byte> head,
                      std::span<const std::byte> payload,
                      std::span<const int> fds,
                      int timeout_ms) {
    OUTRIGGER_ASSERT(fds.size() <= kMessageFdsMax);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kControlFds * sizeof(int))> control{};
    size_t sent = 0;
    const size_t total = head.size() + payload.size();
    while (sent < total) {
        const size_t head_sent = std::min(sent, head.size());
        const size_t payload_sent = sent - head_sent;
        // sendmsg does not write through these pointers.
        std::array<iovec, 2> ranges{{
            {.iov_base = const_cast<std::byte*>(head.data()) + head_sent,
             .iov_len = head.size() - head_sent},
            {.iov_base = const_cast<std::byte*>(payload.data()) + payload_sent,
             .iov_len = payload.size() - payload_sent},
        }};
        msghdr message{};
        message.msg_iov = ranges.data();
        message.msg_iovlen = ranges.size();
        if (sent == 0 && !fds.empty()) {
            message.msg_control = control.data();
            message.msg_controllen =
                static_cast<decltype(message.msg_controllen)>(CMSG_SPACE(fds.size() * sizeof(int)));
            cmsghdr* rights = CMSG_FIRSTHDR(&message);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len =
                static_cast<decltype(rights->cmsg_len)>(CMSG_LEN(fds.size() * sizeof(int)));
            std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
        }
        const ssize_t count = platform::send_message(socket, message);
        if (count >= 0) {
            sent += static_cast<size_t>(count);
            continue;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
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
