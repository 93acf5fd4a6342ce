// SPDX-License-Identifier: Apache-2.0
/// Bytes between a file and the buffers of a chain, as many as there are, whatever the kernel does
/// in one call.
#pragma once

#include <cstdint>
#include <span>

#include <sys/uio.h>

#include "devices/fs/fuse_request.h"

namespace outrigger::fs {

struct Transfer {
    uint64_t done = 0;
    Errno error = 0;  ///< why it ended early; 0 at the end of the file
};

/// Reads until `segments` are full, the file ends, or an error, which may be EAGAIN with
/// RWF_NOWAIT. Consumes what it fills.
[[nodiscard]] Transfer read_all(int fd, std::span<iovec>& segments, uint64_t offset, int flags);

/// Writes until `segments` are empty, or an error. Consumes what it writes.
[[nodiscard]] Transfer write_all(int fd, std::span<iovec>& segments, uint64_t offset, int flags);

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
