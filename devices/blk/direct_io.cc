// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/direct_io.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <optional>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/bounce_pool.h"

namespace outrigger::blk {
namespace {

/// Linux 6.1 and later say it, for the file systems that know.
std::optional<DirectIoAlignment> ask_kernel(int fd) {
#ifdef STATX_DIOALIGN
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

/// The smallest block that can be read directly, with the address as aligned as the offset.
std::optional<DirectIoAlignment> try_reads(int fd, uint32_t least, std::span<std::byte> memory) {
    for (uint32_t size = least; size <= BouncePool::kBufferBytes / 2; size *= 2) {
        // Offset and address at `size` and not at a larger power of two.
        const ssize_t count =
            ::pread(fd, memory.subspan(size).data(), size, static_cast<off_t>(size));
        if (count >= 0) {
            return DirectIoAlignment{.address = size, .offset = size};
        }
        if (errno != EINVAL) {
            return std::nullopt;
        }
    }
    return std::nullopt;
}

}  // namespace

Result<DirectIoAlignment> probe_direct_io(int fd,
                                          const ImageProperties& properties,
                                          std::string_view path) {
    std::optional<DirectIoAlignment> alignment = ask_kernel(fd);
    if (!alignment) {
        BouncePool pool;
        const std::span<std::byte> memory = pool.take();
        if (!memory.empty()) {
            alignment = try_reads(fd, properties.block_bytes, memory);
        }
    }
    if (!alignment || !is_power_of_two(alignment->offset) || !is_power_of_two(alignment->address) ||
        alignment->offset > 65536 || alignment->address > 65536) {
        return failure(Error{.message = fmt::format("image {} cannot be read directly, bypassing "
                                                    "the page cache: use --cache=writeback",
                                                    path)});
    }
    return *alignment;
}

}  // namespace outrigger::blk
