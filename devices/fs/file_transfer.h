// SPDX-License-Identifier: Apache-2.0
/// Bytes between a file and the buffers of a chain, as many as there are, whatever the kernel does
/// in one call.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/syscall.h>
#include <sys/uio.h>

#include "devices/fs/fuse_request.h"
#include "devices/fs/host_call.h"

namespace outrigger::fs {

struct Transfer {
    uint64_t done = 0;
    Errno error = 0;  ///< why it ended early; 0 at the end of the file
};

// In the header for the reason that host_call.h has.
namespace detail {

/// IOV_MAX of Linux.
inline constexpr size_t kSegmentsMax = 1024;

/// Takes `bytes` off the front of `segments`; the rest, of which the first may begin later.
[[nodiscard]] inline std::span<iovec> behind(std::span<iovec> segments, size_t bytes) {
    while (bytes > 0) {
        iovec& front = segments.front();
        const size_t taken = std::min(bytes, front.iov_len);
        front.iov_base = static_cast<std::byte*>(front.iov_base) + taken;
        front.iov_len -= taken;
        bytes -= taken;
        if (front.iov_len == 0) {
            segments = segments.subspan(1);
        }
    }
    return segments;
}

[[nodiscard]] inline int segment_count(std::span<const iovec> segments) {
    return static_cast<int>(std::min(segments.size(), kSegmentsMax));
}

/// One call, the cheapest that there is: what it moved, or -errno. Without a vector and flags it
/// costs the kernel a tenth less of a page. Not by host_call(), so that tests can stand in for
/// disks that fail.
[[nodiscard]] inline long read_some(int fd,
                                    std::span<const iovec> segments,
                                    uint64_t offset,
                                    int flags) {
#if defined(__LP64__)
    const auto at = static_cast<long>(offset);
    long result = 0;
    if (flags == 0 && segments.size() == 1) {
        const iovec& only = segments.front();
        result = ::syscall(SYS_pread64, fd, only.iov_base, only.iov_len, at);
    } else {
        // Where a long has 64 bits, the first half of the offset is all of it.
        const long count = segment_count(segments);
        result = ::syscall(SYS_preadv2, fd, segments.data(), count, at, 0L, flags);
    }
#else
    const ssize_t result =
        ::preadv2(fd, segments.data(), segment_count(segments), static_cast<off_t>(offset), flags);
#endif
    return result < 0 ? -long{errno} : long{result};
}

[[nodiscard]] inline long write_some(int fd,
                                     std::span<const iovec> segments,
                                     uint64_t offset,
                                     int flags) {
#if defined(__LP64__)
    const auto at = static_cast<long>(offset);
    if (flags == 0 && segments.size() == 1) {
        return host_call(SYS_pwrite64, fd, segments.front().iov_base, segments.front().iov_len, at);
    }
    const long count = segment_count(segments);  // and of the offset, as above
    return host_call(SYS_pwritev2, fd, segments.data(), count, at, 0L, flags);
#else
    const ssize_t count =
        ::pwritev2(fd, segments.data(), segment_count(segments), static_cast<off_t>(offset), flags);
    return count < 0 ? -long{errno} : long{count};
#endif
}

}  // namespace detail

/// Reads until `segments` are full, the file ends, or an error, which may be EAGAIN with
/// RWF_NOWAIT. Consumes what it fills.
[[nodiscard]] inline Transfer read_all(int fd,
                                       std::span<iovec>& segments,
                                       uint64_t offset,
                                       int flags) {
    Transfer transfer;
    while (!segments.empty()) {
        const long count = detail::read_some(fd, segments, offset + transfer.done, flags);
        if (count < 0) {
            if (count == -EINTR) {
                continue;
            }
            transfer.error = static_cast<Errno>(-count);
            break;
        }
        if (count == 0) {
            break;
        }
        transfer.done += static_cast<size_t>(count);
        segments = detail::behind(segments, static_cast<size_t>(count));
    }
    return transfer;
}

/// Writes until `segments` are empty, or an error. Consumes what it writes.
[[nodiscard]] inline Transfer write_all(int fd,
                                        std::span<iovec>& segments,
                                        uint64_t offset,
                                        int flags) {
    Transfer transfer;
    while (!segments.empty()) {
        const long count = detail::write_some(fd, segments, offset + transfer.done, flags);
        if (count <= 0) {
            if (count == -EINTR) {
                continue;
            }
            transfer.error = count < 0 ? static_cast<Errno>(-count) : EIO;
            break;
        }
        transfer.done += static_cast<size_t>(count);
        segments = detail::behind(segments, static_cast<size_t>(count));
    }
    return transfer;
}

/// Can a host's disk take these buffers as they are (O_DIRECT)? Those of a guest's programs mostly
/// are whole sectors; those of its kernel begin anywhere.
[[nodiscard]] bool are_sectors(std::span<const iovec> segments);

/// The same through memory of our own, which is whole pages: for O_DIRECT where are_sectors() says
/// no. Where offset and size are no whole sectors either, the kernel refuses it (EINVAL), as it
/// does for a program of the host. `lost_before` is sigbus_guard::lost_count() when the request
/// came: EFAULT, and nothing written, when the guest's memory has gone since.
[[nodiscard]] Transfer read_by_copy(int fd, std::span<iovec> segments, uint64_t offset);
[[nodiscard]] Transfer write_by_copy(
    int fd, std::span<const iovec> segments, uint64_t offset, int flags, uint32_t lost_before);

}  // namespace outrigger::fs
