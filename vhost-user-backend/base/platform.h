// SPDX-License-Identifier: Apache-2.0
/// The few things that Linux does in one call of its own and other Unix systems in another way, or
/// not at all. The build compiles platform_linux.cc or platform_portable.cc; no other file of the
/// framework asks on which system it is.
///
/// Functions that return a UniqueFd return an invalid one, with errno set, when they fail. Any
/// thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <sys/socket.h>
#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::platform {

// --- Descriptors -------------------------------------------------------------------------------

struct PipeEnds {
    UniqueFd read_end;
    UniqueFd write_end;
};

/// A pipe whose ends are close-on-exec, and blocking.
[[nodiscard]] Result<PipeEnds> open_pipe();

/// An eventfd, non-blocking and close-on-exec; ENOSYS where the system has none.
[[nodiscard]] UniqueFd open_eventfd();

/// read() and write() that never wait, whether or not O_NONBLOCK is set: whoever shares the open
/// file can take that flag off at any time. -1 with EAGAIN instead of a wait, and with ENOTSUP
/// where the system or this kind of file has no such way (no eventfd can be written like this). A
/// pipe may keep a reference to `bytes` instead of a copy: they must never change.
[[nodiscard]] ssize_t read_now(int fd, std::span<std::byte> out);
[[nodiscard]] ssize_t write_now(int fd, std::span<const std::byte> bytes);

/// Do both lead to the same open file, as dup() makes them? False where the system does not tell.
[[nodiscard]] bool is_same_open_file(int one, int other);

// --- Time --------------------------------------------------------------------------------------

/// Does the kernel keep the time by the counter that SystemTicks reads? Found out by the first
/// call, from a file that a sandbox hides: false behind one.
[[nodiscard]] bool kernel_counts_ticks();

// --- Sockets -----------------------------------------------------------------------------------

/// socket(AF_UNIX, type, 0), close-on-exec. `type` is SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET
/// alone.
[[nodiscard]] UniqueFd open_unix_socket(int type);

/// accept(): the connection is close-on-exec and non-blocking.
[[nodiscard]] UniqueFd accept_connection(int listener);

/// recvmsg() that never waits; the descriptors that come along are close-on-exec. With `peek`
/// (after start_peeking()) what was received stays in the socket.
[[nodiscard]] ssize_t receive_message(int socket, msghdr& message, bool peek = false);

/// From now on each peek sees what is behind the one before; what is taken counts as peeked first.
/// Also for a socket on which another process has begun that: the first `peeked` bytes then count
/// as peeked at. False where the system cannot.
[[nodiscard]] bool start_peeking(int socket, size_t peeked = 0);

/// Bytes at the front of a socket that have been peeked at since start_peeking(), by any process,
/// and not been taken; 0 where the system cannot peek.
[[nodiscard]] size_t peeked_bytes(int socket);

/// sendmsg() that never waits, and raises no SIGPIPE on sockets made by the functions above.
[[nodiscard]] ssize_t send_message(int socket, const msghdr& message);

/// A message and how much of it was sent or received, laid out as Linux has them (struct mmsghdr).
struct NotedMessage {
    msghdr message{};
    unsigned moved = 0;  ///< bytes
};

/// send_message() that notes in `noted.moved`, within the system call that sends: where that lies
/// in shared memory, it says of a process that was killed whether it has sent. Where the system has
/// no such call the note follows the deed. Returns no more than the message has, whoever else
/// writes to the note.
[[nodiscard]] ssize_t send_noted_message(int socket, NotedMessage& noted);

/// recvmsg() that never waits, with more `flags` if need be, noted in the same way.
[[nodiscard]] ssize_t receive_noted_message(int socket, NotedMessage& noted, int flags = 0);

/// Gives a Unix socket, which may be connected, a name of its own that leaves no file behind,
/// unless it has a name. False where the system has no such names, or none to spare.
[[nodiscard]] bool name_socket(int socket);

/// Who is at the other end, as far as the system tells: "pid 12, uid 0", "uid 0", "unknown peer".
[[nodiscard]] std::string describe_peer(int connection);

/// The user at the other end, when it connected; nothing where the system does not tell.
[[nodiscard]] std::optional<uid_t> peer_user(int connection);

// --- Memory ------------------------------------------------------------------------------------

/// An empty memfd that can be sealed, close-on-exec; ENOSYS where the system has none.
[[nodiscard]] UniqueFd open_memfd(const char* name);

/// The memfd neither shrinks nor grows from now on.
[[nodiscard]] Result<void> seal_size(int memfd);

/// Can nobody make this file shorter as long as it exists? False where the system has no seals.
[[nodiscard]] bool is_sealed_against_shrinking(int fd);

/// What mappings of the file are made of, in bytes: a huge page of hugetlbfs cannot be mapped in
/// part, and a mapping that is not whole cannot be unmapped.
[[nodiscard]] uint64_t page_bytes_of(int fd);

/// Best effort: the guest's secrets do not belong in our core file.
void keep_out_of_core_files(std::span<std::byte> mapping);

/// Gives whole pages of private anonymous memory back to the system: they read as zeroes from now
/// on, also while other threads touch them. False, with errno, where nothing changed.
[[nodiscard]] bool drop_pages(std::span<std::byte> pages);

/// Whether the system may, or may not, put huge pages behind private anonymous memory. Best effort.
void set_huge_pages(std::span<std::byte> pages, bool allowed);

/// Keeps pages from being swapped out, if the limit of such memory (RLIMIT_MEMLOCK) allows it.
void lock_pages(std::span<std::byte> pages);

/// What the kernel says of one page of a mapping without anybody touching it.
enum class PageState : uint8_t {
    kThere,
    kLost,     ///< an access would raise SIGBUS: the file ends before it
    kUnknown,  ///< the system does not tell
};

[[nodiscard]] PageState page_state(void* page);

/// Maps the pages of a shared mapping a second time, anywhere. Null with errno where that fails,
/// ENOTSUP where the system has no way; `source` is aligned to pages.
[[nodiscard]] void* map_again(void* source, size_t length);

/// Moves a mapping to `at`, in place of what is there. False with errno; then `mapping` stays, and
/// what was at `at` may be gone.
[[nodiscard]] bool move_mapping(void* mapping, size_t length, void* at);

// --- Threads and time --------------------------------------------------------------------------

/// For whoever looks at the process; at most 15 bytes are shown. Best effort.
void name_this_thread(const std::string& name);

[[nodiscard]] Result<void> pin_this_thread(unsigned processor);

/// Makes start_alarm() possible. Once, before it is called.
[[nodiscard]] Result<void> prepare_alarm();

/// SIGALRM comes once after `delay`, which is shorter than a second. Also from a signal handler.
void start_alarm(std::chrono::milliseconds delay);

// --- Randomness --------------------------------------------------------------------------------

/// Fills as much of `out` as the kernel's generator gives without waiting; 0 when it is not ready.
[[nodiscard]] Result<size_t> read_kernel_entropy(std::span<std::byte> out);

}  // namespace outrigger::platform
