// SPDX-License-Identifier: Apache-2.0
// What every Unix system has. Holes cannot be made that way, so zeroes are written in their place
// and discarding is not offered.
#include <cerrno>

#include <sys/uio.h>
#include <unistd.h>

#include "devices/blk/host_calls.h"

namespace outrigger::blk {
namespace {

int64_t refuse_as_unsupported() {
    errno = EOPNOTSUPP;
    return -1;
}

}  // namespace

int64_t call_host(int fd, const IoOperation& operation) {
    const auto offset = static_cast<off_t>(operation.offset_bytes);
    const int count = static_cast<int>(operation.segment_count);
    switch (operation.opcode) {
        case IoOpcode::kRead:
            return ::preadv(fd, operation.segments, count, offset);
        case IoOpcode::kWrite: {
            const ssize_t written = ::pwritev(fd, operation.segments, count, offset);
            // A stable write is not done before the disk has it.
            return written >= 0 && operation.stable && ::fdatasync(fd) != 0 ? -1 : written;
        }
        case IoOpcode::kSync:
            return ::fdatasync(fd);
        case IoOpcode::kPunchHole:
        case IoOpcode::kZeroRange:
        case IoOpcode::kDeviceDiscard:
        case IoOpcode::kDeviceErase:
        case IoOpcode::kReadAttribute:
            return refuse_as_unsupported();
    }
    return 0;
}

std::optional<int> direct_open_flag() {
    return std::nullopt;
}

std::optional<DirectIoAlignment> ask_direct_io_alignment(int /*fd*/) {
    return std::nullopt;
}

bool can_punch_holes(int /*fd*/, uint64_t /*size_bytes*/) {
    return false;
}

}  // namespace outrigger::blk
