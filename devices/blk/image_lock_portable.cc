// SPDX-License-Identifier: Apache-2.0
// In place of image_lock.cc: a lock that daemons of ours see.
#include <cerrno>

#include <sys/file.h>

#include "devices/blk/image_lock.h"

namespace outrigger::blk {

ImageLockOutcome lock_image_file(int fd, bool read_only) {
    if (::flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
        return {};
    }
    // That is all that can be told; it is alive, because without io_uring nothing outlives it.
    return {.os_error = errno == EWOULDBLOCK ? EAGAIN : errno, .holder = "another process"};
}

void unlock_image_file(int fd) {
    (void)::flock(fd, LOCK_UN);
}

}  // namespace outrigger::blk
