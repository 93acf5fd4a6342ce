// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/slow_close.h"

#include <cstdint>

#include <fcntl.h>
#include <sys/stat.h>

namespace outrigger::fs {
namespace {

/// Below this it is done before another thread has begun.
constexpr uint64_t kSlowBytes = uint64_t{1} << 20;

constexpr uint64_t kBlockBytes = 512;  // of stx_blocks

}  // namespace

bool SlowClose::is_slow(int fd) {
    struct statx status = {};
    // What is known already: a server far away is not asked for this.
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    return ::statx(fd, "", flags, STATX_NLINK | STATX_BLOCKS, &status) == 0 &&
           status.stx_nlink == 0 && status.stx_blocks >= kSlowBytes / kBlockBytes;
}

void SlowClose::take(int fd) {
    if (fd < 0 || !is_slow(fd)) {
        return;
    }
    // Relaxed, as below: a bound, by which nothing else is ordered.
    if (held_->fetch_add(1, std::memory_order_relaxed) < kHeldMax) {
        if (UniqueFd second(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); second.valid()) {
            descriptors_.push_back(std::move(second));
            return;
        }
    }
    held_->fetch_sub(1, std::memory_order_relaxed);
}

void SlowClose::close() {
    const size_t count = descriptors_.size();
    descriptors_.clear();
    held_->fetch_sub(count, std::memory_order_relaxed);
}

}  // namespace outrigger::fs
