// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/host_calls.h"

namespace outrigger::blk {

int64_t call_host(int fd, const IoOperation& operation) {
    const auto offset = static_cast<off_t>(operation.offset_bytes);
    const auto length = static_cast<off_t>(operation.length_bytes);
    const int count = static_cast<int>(operation.segment_count);
    switch (operation.opcode) {
        case IoOpcode::kRead:
            return ::preadv2(fd, operation.segments, count, offset, 0);
        case IoOpcode::kWrite:
            return ::pwritev2(
                fd, operation.segments, count, offset, operation.stable ? RWF_DSYNC : 0);
        case IoOpcode::kSync:
            return ::fdatasync(fd);
        case IoOpcode::kPunchHole:
            return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
        case IoOpcode::kZeroRange:
            return ::fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
        case IoOpcode::kDeviceDiscard: {
            uint64_t range[2] = {operation.offset_bytes, operation.length_bytes};
            return ::ioctl(fd, BLKDISCARD, &range);
        }
        case IoOpcode::kDeviceErase: {
            uint64_t range[2] = {operation.offset_bytes, operation.length_bytes};
            return ::ioctl(fd, BLKSECDISCARD, &range);
        }
        case IoOpcode::kReadAttribute:
            return ::preadv2(operation.attribute_fd, operation.segments, count, 0, 0);
    }
    return 0;
}

std::optional<int> direct_open_flag() {
    return O_DIRECT;
}

std::optional<DirectIoAlignment> ask_direct_io_alignment(int fd) {
#ifdef STATX_DIOALIGN
    // Linux 6.1 and later say it, for the file systems that know.
    struct statx status = {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0 ||
        (status.stx_mask & STATX_DIOALIGN) == 0 || status.stx_dio_offset_align == 0) {
        return std::nullopt;
    }
    return DirectIoAlignment{.address = std::max(status.stx_dio_mem_align, 1U),
                             .offset = std::max(status.stx_dio_offset_align, 512U)};
#else
    (void)fd;
    return std::nullopt;
#endif
}

bool can_punch_holes(int fd, uint64_t size_bytes) {
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const auto behind_end = align_up<uint64_t>(size_bytes, 65536);
    // Other errors than "cannot" are about that place.
    return !behind_end || ::fallocate(fd, mode, static_cast<off_t>(*behind_end), 65536) == 0 ||
           (errno != EOPNOTSUPP && errno != ENOSYS);
}

}  // namespace outrigger::blk
