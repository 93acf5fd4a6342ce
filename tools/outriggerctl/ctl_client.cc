// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_client.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <thread>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

using Clock = std::chrono::steady_clock;

/// Waits until there is something to read.
Result<void> wait_readable(int socket, Clock::time_point deadline) {
    while (true) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
        pollfd readable{.fd = socket, .events = POLLIN, .revents = 0};
        const int count =
            left.count() > 0 ? ::poll(&readable, 1, static_cast<int>(left.count())) : 0;
        if (count > 0) {
            return {};
        }
        if (count == 0) {
            return failure(
                error_from_code("no answer of the daemon; the command goes on there", ETIMEDOUT));
        }
        if (errno != EINTR) {
            return failure(error_from_errno("cannot wait for the daemon"));
        }
    }
}

Result<v1::Reply> receive_reply(int socket, Clock::time_point deadline) {
    control::FrameReader reader(control::kReplyBytesMax);
    std::array<std::byte, 16384> buffer;
    while (true) {
        const auto message = reader.take();
        if (!message) {
            return failure(Error{.message = "what answers there is no control socket"});
        }
        if (*message) {
            v1::Reply reply;
            if (!reply.ParseFromString(**message)) {
                return failure(Error{.message = "the answer is no message of this protocol"});
            }
            return reply;
        }
        OUTRIGGER_TRY(wait_readable(socket, deadline));
        const wire::ReceiveResult received = wire::receive_some(socket, buffer);
        if (received.status == wire::ReceiveStatus::kData) {
            reader.add(std::span(buffer).first(received.bytes));
        } else if (received.status != wire::ReceiveStatus::kWouldBlock) {
            return failure(Error{.message = "the daemon closed the connection without an answer"});
        }
    }
}

}  // namespace

Result<UniqueFd> connect_to(const std::string& path, std::chrono::seconds timeout) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = path + " is longer than a socket's name can be"});
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
    if (!socket.valid()) {
        return failure(error_from_errno("cannot create a socket"));
    }
    const timeval patience{.tv_sec = static_cast<time_t>(timeout.count()), .tv_usec = 0};
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    // SAFETY: connect() takes every address type through this pointer type and tells them apart by
    // sun_family.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(socket.get(), generic, sizeof address) != 0) {
        Error error = error_from_errno("cannot connect to " + path);
        if (error.os_error == ENOENT || error.os_error == ECONNREFUSED) {
            error.message += "; does the daemon run, with --control-socket there?";
        }
        return failure(std::move(error));
    }
    return socket;
}

Result<v1::Reply> ask(int socket,
                      const v1::Request& request,
                      int fd,
                      std::chrono::seconds timeout) {
    const auto deadline = Clock::now() + timeout;
    const std::string message = control::frame(request);
    const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(timeout);
    // A refused client finds its answer although its request was not taken.
    const auto sent =
        wire::send_all(socket,
                       std::as_bytes(std::span(message)),
                       {},
                       fd >= 0 ? std::span<const int>(&fd, 1) : std::span<const int>(),
                       static_cast<int>(milliseconds.count()));
    auto reply = receive_reply(socket, deadline);
    if (!reply && !sent) {
        return failure(sent.error());
    }
    return reply;
}

}  // namespace outrigger::ctl
