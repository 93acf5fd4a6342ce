// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/notifier.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <span>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

/// What a read of an eventfd takes and gives.
constexpr size_t kEventfdBytes = 8;

/// Does this system read eventfds without waiting? Then an anonymous inode that it does not read so
/// is none. Found out by the first eventfd of ours, before anybody sends one.
std::atomic<bool> eventfds_are_read_now = false;

bool set_nonblocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

Result<void> make_nonblocking_cloexec(int fd) {
    if (!set_nonblocking(fd) || ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
        return failure(error_from_errno("cannot prepare a notification descriptor"));
    }
    return {};
}

}  // namespace

DrainResult drain_notification(int fd, NotificationKind kind) {
    // A pipe gives what was written, 8 bytes a signal or any other sum.
    std::array<std::byte, 512> buffer;
    const std::span<std::byte> out =
        kind == NotificationKind::kPipe ? buffer : std::span(buffer).first(kEventfdBytes);
    ssize_t count;
    do {
        count = platform::read_now(fd, out);
        if (count < 0 && errno == ENOTSUP) {
            // Relaxed: the first eventfd is older than this thread.
            if (kind == NotificationKind::kAnonymous &&
                eventfds_are_read_now.load(std::memory_order_relaxed)) {
                return DrainResult::kBroken;
            }
            count = ::read(fd, out.data(), out.size());
        }
    } while (count < 0 && errno == EINTR);
    if (count > 0) {
        return DrainResult::kSignalled;
    }
    if (count == 0) {
        return DrainResult::kEnded;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? DrainResult::kEmpty : DrainResult::kBroken;
}

SignalResult send_notification(int fd, NotificationKind kind) {
    static constexpr uint64_t one = 1;
    ssize_t count;
    do {
        count = kind == NotificationKind::kPipe
                    ? platform::write_now(fd, std::as_bytes(std::span(&one, 1)))
                    : ::write(fd, &one, sizeof one);
        if (kind == NotificationKind::kPipe && count < 0 && errno == ENOTSUP) {
            count = ::write(fd, &one, sizeof one);
        }
    } while (count < 0 && errno == EINTR);
    if (count >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) {
        return SignalResult::kDelivered;
    }
    return SignalResult::kLost;
}

void release_sender(int fd, NotificationKind kind) {
    (void)set_nonblocking(fd);
    if (kind == NotificationKind::kPipe) {
        return;  // who writes to it does not sleep, and what is in it is not ours
    }
    pollfd state{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&state, 1, 0) < 0 || (state.revents & POLLOUT) != 0) {
        return;
    }
    // Nobody who means well counts to 2^64 - 2. One read empties it, and that wakes the sender.
    std::array<std::byte, kEventfdBytes> counter;
    (void)platform::read_now(fd, counter);
}

Result<NotificationKind> check_notification_fd(int fd) {
    struct stat status {};

    if (::fstat(fd, &status) != 0) {
        return failure(error_from_errno("cannot examine a notification descriptor"));
    }
    // The kernel shows anonymous inodes (eventfd and its like) without a file type.
    const bool anonymous = (status.st_mode & S_IFMT) == 0;
    if (!anonymous && !S_ISFIFO(status.st_mode)) {
        return failure(
            Error{.message = "a notification descriptor is neither an eventfd nor a pipe"});
    }
    OUTRIGGER_TRY(make_nonblocking_cloexec(fd));
    if (!anonymous && (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR) {
        return failure(Error{.message = "a notification descriptor is both ends of a FIFO"});
    }
    return anonymous ? NotificationKind::kAnonymous : NotificationKind::kPipe;
}

Result<Notifier> Notifier::create(Kind kind) {
    Notifier notifier;
    if (kind == Kind::kDefault) {
        notifier.read_end_ = platform::open_eventfd();
        if (notifier.read_end_.valid()) {
            std::array<std::byte, kEventfdBytes> counter;
            if (platform::read_now(notifier.read_end_.get(), counter) < 0 && errno == EAGAIN) {
                eventfds_are_read_now.store(true, std::memory_order_relaxed);
            }
            return notifier;
        }
        if (errno != ENOSYS) {
            return failure(error_from_errno("cannot create an eventfd"));
        }
    }
    platform::PipeEnds pipe = OUTRIGGER_TRY(platform::open_pipe());
    OUTRIGGER_TRY(make_nonblocking_cloexec(pipe.read_end.get()));
    OUTRIGGER_TRY(make_nonblocking_cloexec(pipe.write_end.get()));
    notifier.read_end_ = std::move(pipe.read_end);
    notifier.write_end_ = std::move(pipe.write_end);
    return notifier;
}

void Notifier::drain() const {
    while (drain_notification(read_fd()) == DrainResult::kSignalled) {
    }
}

}  // namespace outrigger
