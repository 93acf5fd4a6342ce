// SPDX-License-Identifier: Apache-2.0
// Preloaded into a share's daemon: its files can be read up to the offset that the test says, and
// fail behind it, as on a disk with bad sectors. Or reads in the midst of a sector are refused.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <dlfcn.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

constexpr size_t kSegmentsMax = 1024;

constexpr int64_t kSectorBytes = 512;

int64_t good_bytes = INT64_MAX;
bool wants_sectors = false;

__attribute__((constructor)) void read_what_the_test_says() {
    if (const char* const text = std::getenv("OUTRIGGER_READS_FAIL_BEHIND")) {
        good_bytes = std::atoll(text);
    }
    wants_sectors = std::getenv("OUTRIGGER_READS_WANT_SECTORS") != nullptr;
}

using Syscall = long (*)(long, long, long, long, long, long, long);

long next(long number, long a, long b, long c, long d, long e, long f) {
    // SAFETY: what POSIX has dlsym() for; each takes as many of the arguments as it knows.
    static const auto function = reinterpret_cast<Syscall>(::dlsym(RTLD_NEXT, "syscall"));
    return function(number, a, b, c, d, e, f);
}

/// preadv2() of what is good.
long read_vector(int fd, const iovec* segments, long count, int64_t offset, long flags) {
    std::array<iovec, kSegmentsMax> good;
    long good_count = 0;
    auto left = static_cast<size_t>(good_bytes - offset);
    for (; good_count < count && left > 0; ++good_count) {
        const iovec& segment = segments[good_count];
        good[static_cast<size_t>(good_count)] = {.iov_base = segment.iov_base,
                                                 .iov_len = std::min(segment.iov_len, left)};
        left -= std::min(segment.iov_len, left);
    }
    // SAFETY: an address as the kernel takes it.
    return next(SYS_preadv2, fd, reinterpret_cast<long>(good.data()), good_count, offset, 0, flags);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) long syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    std::array<long, 6> arguments;
    for (long& argument : arguments) {
        argument = va_arg(list, long);
    }
    va_end(list);
    auto [a, b, c, d, e, f] = arguments;
    if ((number == SYS_preadv2 || number == SYS_pread64) && d >= good_bytes) {
        errno = EIO;
        return -1;
    }
    // Less than 0 is no file.
    if ((number == SYS_preadv2 || number == SYS_pread64) && wants_sectors && d > 0 &&
        d % kSectorBytes != 0) {
        errno = EINVAL;
        return -1;
    }
    if (number == SYS_preadv2) {
        // SAFETY: the caller's vector, of `c` pieces.
        return read_vector(static_cast<int>(a), reinterpret_cast<const iovec*>(b), c, d, f);
    }
    if (number == SYS_pread64) {
        c = std::min(c, good_bytes - d);
    }
    return next(number, a, b, c, d, e, f);
}
