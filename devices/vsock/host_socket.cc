// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/host_socket.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::vsock {
namespace {

/// What we would like the kernel to keep for a slow reader; it gives what the system allows.
constexpr int kSendBufferBytes = 1 << 20;

}  // namespace

int socket_kind(SocketType type) {
    return type == SocketType::kStream ? SOCK_STREAM : SOCK_SEQPACKET;
}

Dialled dial(const std::string& path, SocketType type) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    OUTRIGGER_ASSERT(path.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd socket(::socket(AF_UNIX, socket_kind(type) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.valid()) {
        return {.outcome = DialOutcome::kRefused, .os_error = errno};
    }
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(socket.get(), generic, sizeof address) == 0) {
        prepare_connection(socket.get(), type);
        return {.outcome = DialOutcome::kConnected, .socket = std::move(socket)};
    }
    switch (errno) {
        case ENOENT:
        case ENOTDIR:
        case ECONNREFUSED:
            return {.outcome = DialOutcome::kNobody, .os_error = errno};
        case EAGAIN:  // Unix sockets say so, and not EINPROGRESS, when the backlog is full
        case EINTR:
            return {.outcome = DialOutcome::kBusy, .os_error = errno};
        default:
            return {.outcome = DialOutcome::kRefused, .os_error = errno};
    }
}

void prepare_connection(int socket, SocketType type) {
    (void)::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
    if (type == SocketType::kSeqpacket) {
        // Each message then brings its sender along, and the end of all does not.
        const int on = 1;
        (void)::setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    }
}

size_t readable_bytes(int socket) {
    int count = 0;
    return ::ioctl(socket, FIONREAD, &count) == 0 && count > 0 ? static_cast<size_t>(count) : 0;
}

ssize_t send_pieces(int socket, std::span<const iovec> pieces) {
    msghdr message{};
    // SAFETY: sendmsg() does not write through msg_iov; its type serves recvmsg(), too.
    message.msg_iov = const_cast<iovec*>(pieces.data());
    message.msg_iovlen = pieces.size();
    return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t send_bytes(int socket, std::span<const std::byte> bytes) {
    return ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t look_for_byte(int socket) {
    std::byte byte{};
    return receive_bytes(socket, std::span(&byte, 1), true);
}

ssize_t receive_bytes(int socket, std::span<std::byte> out, bool peek) {
    iovec piece{.iov_base = out.data(), .iov_len = out.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    return ::recvmsg(socket, &message, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
}

std::optional<NextMessage> next_message(int socket) {
    std::byte byte{};
    iovec piece{.iov_base = &byte, .iov_len = sizeof byte};
    // Room for who sent it and nothing more: descriptors that a peer may have sent along are then
    // not installed. Closing one could take long, or give up a lock of this process.
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(ucred))> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t count =
        ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (count < 0) {
        return std::nullopt;
    }
    return NextMessage{.is_end = count == 0 && message.msg_controllen == 0,
                       .bytes = static_cast<size_t>(count)};
}

}  // namespace outrigger::vsock
