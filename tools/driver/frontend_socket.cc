// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/frontend_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::driver {
namespace {

constexpr std::chrono::milliseconds kConnectPause{5};
#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
constexpr int kSendFlags = MSG_DONTWAIT;
#endif

// poll(2) until `events` or the deadline.
bool wait_for(int fd, short events, Deadline deadline) {
    while (true) {
        pollfd waited{.fd = fd, .events = events, .revents = 0};
        const int count = ::poll(&waited, 1, milliseconds_until(deadline));
        if (count > 0) {
            return true;
        }
        if (count == 0 || errno != EINTR) {
            return false;
        }
    }
}

void attach_fds(msghdr& message, std::vector<std::byte>& control, std::span<const int> fds) {
    if (fds.empty()) {
        return;
    }
    control.resize(CMSG_SPACE(fds.size_bytes()));
    message.msg_control = control.data();
    message.msg_controllen = static_cast<decltype(message.msg_controllen)>(control.size());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = static_cast<decltype(rights->cmsg_len)>(CMSG_LEN(fds.size_bytes()));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
}

}  // namespace

int milliseconds_until(Deadline deadline) {
    const auto now = Clock::now();
    if (deadline <= now) {
        return 0;  // Deadline::min() would wrap below
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
}

Result<UniqueFd> connect_until(const std::string& path, Deadline deadline) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return failure(error_from_code("cannot connect to " + path, ENAMETOOLONG));
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    while (true) {
        UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
        // Where too many wait to be accepted, connect() would wait with them for ever.
        if (!socket.valid() || ::fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
            return failure(error_from_errno("cannot create a socket"));
        }
        // SAFETY: the socket API takes every address family through sockaddr; connect() reads
        // sizeof(address) bytes at most.
        if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0) {
            ::fcntl(socket.get(), F_SETFL, 0);
            return socket;
        }
        const bool may_come = errno == ENOENT || errno == ECONNREFUSED || errno == EAGAIN;
        if (!may_come || Clock::now() >= deadline) {
            return failure(error_from_errno("cannot connect to " + path));
        }
        std::this_thread::sleep_for(kConnectPause);
    }
}

SendStatus send_until(int socket,
                      std::span<const std::byte> bytes,
                      std::span<const int> fds,
                      Deadline deadline) {
    size_t sent = 0;
    while (sent < bytes.size()) {
        // sendmsg does not write through this pointer.
        iovec range{.iov_base = const_cast<std::byte*>(bytes.data()) + sent,
                    .iov_len = bytes.size() - sent};
        msghdr message{};
        message.msg_iov = &range;
        message.msg_iovlen = 1;
        std::vector<std::byte> control;
        attach_fds(message, control, sent == 0 ? fds : std::span<const int>{});
        const ssize_t count = ::sendmsg(socket, &message, kSendFlags);
        if (count >= 0) {
            sent += static_cast<size_t>(count);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ETOOMANYREFS) {
            if (Clock::now() >= deadline || !wait_for(socket, POLLOUT, deadline)) {
                return SendStatus::kTimeout;
            }
        } else if (errno != EINTR) {
            return SendStatus::kClosed;
        }
    }
    return SendStatus::kSent;
}

bool wait_readable(int fd, Deadline deadline) {
    return wait_for(fd, POLLIN, deadline);
}

}  // namespace outrigger::driver
