// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/notifier.h"

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

Result<void> make_nonblocking_cloexec(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
        return failure(error_from_errno("cannot prepare a notification descriptor"));
    }
    return {};
}

}  // namespace

DrainResult drain_notification(int fd) {
    // An eventfd gives 8 bytes; a pipe gives what was written, 8 bytes a signal or any other sum.
    std::array<std::byte, 512> buffer;
    ssize_t count;
    do {
        count = ::read(fd, buffer.data(), buffer.size());
    } while (count < 0 && errno == EINTR);
    if (count > 0) {
        return DrainResult::kSignalled;
    }
    if (count == 0) {
        return DrainResult::kEnded;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? DrainResult::kEmpty : DrainResult::kBroken;
}

SignalResult send_notification(int fd) {
    const uint64_t one = 1;
    ssize_t count;
    do {
        count = ::write(fd, &one, sizeof one);
    } while (count < 0 && errno == EINTR);
    if (count >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) {
        return SignalResult::kDelivered;
    }
    return SignalResult::kLost;
}

Result<void> check_notification_fd(int fd) {
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
    return make_nonblocking_cloexec(fd);
}

Result<Notifier> Notifier::create(Kind kind) {
    Notifier notifier;
    if (kind == Kind::kDefault) {
        notifier.read_end_ = platform::open_eventfd();
        if (notifier.read_end_.valid()) {
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
