// SPDX-License-Identifier: Apache-2.0
/// The few things that the device does with sockets of the host. Nothing here waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/vsock/packet.h"

namespace outrigger::vsock {

/// SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] int socket_kind(SocketType type);

enum class DialOutcome : uint8_t {
    kConnected,
    kNobody,   ///< no such path, or nobody listens at it
    kBusy,     ///< its backlog is full: try again a little later
    kStarted,  ///< the socket becomes writable when it is connected, or is not: connect_error()
    kRefused,  ///< anything else; errno says what
};

struct Dialled {
    DialOutcome outcome = DialOutcome::kRefused;
    UniqueFd socket{};  ///< kConnected and kStarted: non-blocking
    int os_error = 0;
};

/// Connects to the socket at `path` (at most kSocketPathBytesMax bytes), or says at once why not.
[[nodiscard]] Dialled dial(const std::string& path, SocketType type);

/// Begins to connect to a stream socket of AF_VSOCK.
[[nodiscard]] Dialled dial_vsock(uint32_t cid, uint32_t port);

/// What connect() came to, with its socket non-blocking and not invalid.
[[nodiscard]] Dialled begun(UniqueFd socket, bool is_connected, int os_error);

/// What became of a connection that was started: 0, or the error.
[[nodiscard]] int connect_error(int socket);

/// Why a connection that was started failed: kBusy means that nobody answered in time.
[[nodiscard]] DialOutcome outcome_of(int os_error);

/// Listens at `port` of all addresses that the host has in AF_VSOCK, or of the local one alone.
[[nodiscard]] Result<UniqueFd> listen_at_vsock(uint32_t port, bool is_local, int backlog);

/// Does it listen at that port of AF_VSOCK?
[[nodiscard]] bool listens_at_vsock(int socket, uint32_t port);

/// Room in the kernel, and what messages need; best effort.
void prepare_connection(int socket, SocketType type);

/// How large a message the socket takes at most, between guests a little less.
[[nodiscard]] uint32_t message_bytes_max(int socket);

/// Bytes that can be read now: as many at least, where it is kManyBytes.
inline constexpr size_t kManyBytes = SIZE_MAX;
[[nodiscard]] size_t readable_bytes(int socket);

/// What the kernel keeps for the other end, in bytes of its own: it shrinks as that reads. 0 where
/// the socket cannot say.
[[nodiscard]] size_t unread_bytes(int socket);

/// Is there a byte, the end, or neither? 1, 0, or -1 and errno.
[[nodiscard]] ssize_t look_for_byte(int socket);

/// recv() with these flags and MSG_DONTWAIT.
[[nodiscard]] ssize_t receive_bytes(int socket, std::span<std::byte> out, bool peek);

/// The next message of a SEQPACKET socket that prepare_connection() has seen, or its end: which
/// recv() alone does not tell from an empty message. Nothing, and errno: neither is there now.
struct NextMessage {
    bool is_end = false;
    size_t bytes = 0;
};

[[nodiscard]] std::optional<NextMessage> next_message(int socket);

}  // namespace outrigger::vsock
