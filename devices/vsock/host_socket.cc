// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/host_socket.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <linux/sockios.h>
#include <linux/vm_sockets.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::vsock {
namespace {

/// What we would like the kernel to keep for a slow reader; it gives what the system allows.
constexpr int kSendBufferBytes = 1 << 20;

/// Looked at where a socket cannot say how many bytes it has.
constexpr size_t kPeekBytes = 64 * 1024;

sockaddr_vm vsock_address(uint32_t cid, uint32_t port) {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    return address;
}

const sockaddr* generic(const sockaddr_vm& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return reinterpret_cast<const sockaddr*>(&address);
}

UniqueFd make_vsock() {
    return UniqueFd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

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

Dialled dial_vsock(uint32_t cid, uint32_t port) {
    UniqueFd socket = make_vsock();
    if (!socket.valid()) {
        return {.outcome = DialOutcome::kRefused, .os_error = errno};
    }
    const sockaddr_vm address = vsock_address(cid, port);
    const bool is_connected = ::connect(socket.get(), generic(address), sizeof address) == 0;
    return begun(std::move(socket), is_connected, errno);
}

Dialled begun(UniqueFd socket, bool is_connected, int os_error) {
    if (is_connected) {
        return {.outcome = DialOutcome::kConnected, .socket = std::move(socket)};
    }
    if (os_error == EINPROGRESS) {
        return {.outcome = DialOutcome::kStarted, .socket = std::move(socket)};
    }
    return {.outcome = outcome_of(os_error), .os_error = os_error};
}

int connect_error(int socket) {
    int error = 0;
    socklen_t size = sizeof error;
    return ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

DialOutcome outcome_of(int os_error) {
    switch (os_error) {
        case ECONNRESET:  // what AF_VSOCK says where nobody listens
        case ECONNREFUSED:
            return DialOutcome::kNobody;
        case ETIMEDOUT:
        case EAGAIN:
        case EINTR:
            return DialOutcome::kBusy;
        default:
            return DialOutcome::kRefused;
    }
}

Result<UniqueFd> listen_at_vsock(uint32_t port, bool is_local, int backlog) {
    UniqueFd socket = make_vsock();
    const sockaddr_vm address = vsock_address(is_local ? VMADDR_CID_LOCAL : VMADDR_CID_ANY, port);
    if (!socket.valid() || ::bind(socket.get(), generic(address), sizeof address) != 0 ||
        ::listen(socket.get(), backlog) != 0) {
        return failure(error_from_errno("--forward-listen: cannot listen at port " +
                                        std::to_string(port) + " of AF_VSOCK"));
    }
    return socket;
}

bool listens_at_vsock(int socket, uint32_t port) {
    sockaddr_vm own{};
    socklen_t size = sizeof own;
    int listens = 0;
    socklen_t listens_size = sizeof listens;
    // SAFETY: as in generic(); getsockname() writes at most `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return ::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
           own.svm_family == AF_VSOCK && own.svm_port == port &&
           ::getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) == 0 &&
           listens == 1;
}

void prepare_connection(int socket, SocketType type) {
    (void)::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
    if (type == SocketType::kSeqpacket) {
        // Each message then brings its sender along, and the end of all does not.
        const int on = 1;
        (void)::setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    }
}

uint32_t message_bytes_max(int socket) {
    // What Linux wants besides, and what goes before a message between guests.
    constexpr int kBesides = 32 + 1;
    int bytes = 0;
    socklen_t size = sizeof bytes;
    if (::getsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, &size) != 0) {
        bytes = 0;
    }
    return static_cast<uint32_t>(std::max(bytes, kBesides + 1) - kBesides);
}

size_t readable_bytes(int socket) {
    int count = 0;
    if (::ioctl(socket, FIONREAD, &count) == 0) {
        return count > 0 ? static_cast<size_t>(count) : 0;
    }
    // AF_VSOCK cannot say before Linux 6.16: what is there is looked at.
    std::array<std::byte, kPeekBytes> bytes{};
    constexpr bool kPeek = true;
    const ssize_t seen = receive_bytes(socket, bytes, kPeek);
    if (seen < 0) {
        return 0;
    }
    return static_cast<size_t>(seen) < bytes.size() ? static_cast<size_t>(seen) : kManyBytes;
}

size_t unread_bytes(int socket) {
    int count = 0;
    return ::ioctl(socket, SIOCOUTQ, &count) == 0 && count > 0 ? static_cast<size_t>(count) : 0;
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
