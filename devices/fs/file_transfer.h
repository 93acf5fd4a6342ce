// SPDX-License-Identifier: Apache-2.0
/// Bytes between a file and the buffers of a chain, as many as there are, whatever the kernel does
/// in one call.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

#include "devices/fs/fuse_request.h"

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

}  // namespace detail

/// Reads until `segments` are full, the file ends, or an error, which may be EAGAIN with
/// RWF_NOWAIT. Consumes what it fills.
[[nodiscard]] inline Transfer read_all(int fd,
                                       std::span<iovec>& segments,
                                       uint64_t offset,
                                       int flags) {
    Transfer transfer;
    while (!segments.empty()) {
        const ssize_t count = ::preadv2(fd,
                                        segments.data(),
                                        detail::segment_count(segments),
                                        static_cast<off_t>(offset + transfer.done),
                                        flags);
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            transfer.error = errno;
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
        const ssize_t count = ::pwritev2(fd,
                                         segments.data(),
                                         detail::segment_count(segments),
                                         static_cast<off_t>(offset + transfer.done),
                                         flags);
        if (count <= 0) {
            if (count < 0 && errno == EINTR) {
                continue;
            }
            transfer.error = count < 0 ? errno : EIO;
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
