// SPDX-License-Identifier: Apache-2.0
// Preloaded into a share's daemon: its files can be read up to the offset that the test says, and
// fail behind it, as on a disk with bad sectors.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

constexpr size_t kSegmentsMax = 1024;

int64_t good_bytes = INT64_MAX;

__attribute__((constructor)) void read_what_the_test_says() {
    if (const char* const text = std::getenv("OUTRIGGER_READS_FAIL_BEHIND")) {
        good_bytes = std::atoll(text);
    }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) ssize_t preadv2(
    int fd, const iovec* segments, int count, off_t offset, int flags) {
    if (offset >= good_bytes) {
        errno = EIO;
        return -1;
    }
    std::array<iovec, kSegmentsMax> good;
    int good_count = 0;
    auto left = static_cast<size_t>(good_bytes - offset);
    for (; good_count < count && left > 0; ++good_count) {
        const iovec& segment = segments[good_count];
        good[static_cast<size_t>(good_count)] = {.iov_base = segment.iov_base,
                                                 .iov_len = std::min(segment.iov_len, left)};
        left -= std::min(segment.iov_len, left);
    }
    return ::syscall(SYS_preadv2, fd, good.data(), good_count, offset, 0, flags);
}
