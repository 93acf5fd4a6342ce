// SPDX-License-Identifier: Apache-2.0
/// One-bit signals between threads and processes, over an eventfd or a pipe.
///
/// Kicks (driver to device) and calls (device to driver) arrive as descriptors that the front end
/// made. They may be eventfds or pipes ends, blocking or not, and they may be hostile: a directory,
/// a file that is always readable, a closed pipe. So a received descriptor is examined once
/// (`check_notification_fd`), made non-blocking, and every read may bring any number of bytes.
#pragma once

#include <cstdint>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// What a read of a notification descriptor found.
enum class DrainResult : uint8_t {
    kSignalled,  ///< there was at least one signal, all pending ones are consumed or remain
                 ///< readable
    kEmpty,      ///< nothing there: a spurious wake-up, harmless
    kEnded,      ///< every writer is gone; it will never be readable with data again
    kBroken,     ///< not something that can be read as a notification
};

/// What a received descriptor is, as far as one can tell.
enum class NotificationKind : uint8_t {
    kAnonymous,  ///< an eventfd, or another anonymous inode
    kPipe,       ///< a pipe or a FIFO
};

/// Takes what is pending, at most one buffer's worth. Never blocks on an eventfd (Linux 5.8 and
/// later) or a pipe (Linux), nor on others and elsewhere while O_NONBLOCK holds.
///
/// Of an anonymous inode exactly 8 bytes are read, which only eventfds and timers give. A signalfd
/// of the front end would yield the signals of our process, and they would be gone.
[[nodiscard]] DrainResult drain_notification(int fd,
                                             NotificationKind kind = NotificationKind::kAnonymous);

/// Whether a signal was delivered.
enum class SignalResult : uint8_t {
    kDelivered,  ///< written, or the channel is full, which means "already signalled"
    kLost,       ///< the reader is gone or the descriptor cannot be written
};

/// Writes 8 bytes of value 1. Never raises SIGPIPE in a process that ignores it (the daemon shell
/// does); never blocks while O_NONBLOCK holds, and a pipe on Linux not even without it.
[[nodiscard]] SignalResult send_notification(int fd,
                                             NotificationKind kind = NotificationKind::kAnonymous);

/// Sets O_NONBLOCK again and wakes who sleeps in send_notification() of a full eventfd, because
/// somebody else took the flag off and filled it. Never waits; any thread. A signal that waits to
/// be read stays.
void release_sender(int fd, NotificationKind kind);

/// Accepts an eventfd or another anonymous-inode descriptor, one end of a pipe or FIFO, and sets
/// O_NONBLOCK and FD_CLOEXEC on it. Refuses files, directories, sockets and devices, which are
/// readable for ever and would make a worker spin, and a FIFO that is open for both: its end would
/// never be seen.
[[nodiscard]] Result<NotificationKind> check_notification_fd(int fd);

/// A descriptor that passed the check, and what it is.
struct NotificationFd {
    UniqueFd fd;
    NotificationKind kind;

    [[nodiscard]] int get() const { return fd.get(); }

    [[nodiscard]] bool valid() const { return fd.valid(); }
};

/// A wake-up of our own: an eventfd where the build uses them (on Linux, but for the portable
/// build), a pipe elsewhere or when asked for.
class Notifier final {
  public:
    enum class Kind : uint8_t { kDefault, kPipe };

    [[nodiscard]] static Result<Notifier> create(Kind kind = Kind::kDefault);

    /// The descriptor to wait on.
    [[nodiscard]] int read_fd() const { return read_end_.get(); }

    /// The descriptor to hand to a peer that signals us.
    [[nodiscard]] int write_fd() const {
        return write_end_.valid() ? write_end_.get() : read_end_.get();
    }

    /// Any thread, also from a signal handler.
    void signal() const { (void)send_notification(write_fd()); }

    /// Consumes everything that is pending.
    void drain() const;

  private:
    UniqueFd read_end_;
    UniqueFd write_end_;  // empty for an eventfd
};

}  // namespace outrigger
