// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/direct_io.h"

#include <cerrno>
#include <new>
#include <optional>

#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/bounce_pool.h"
#include "devices/blk/host_calls.h"

namespace outrigger::blk {
namespace {

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
    std::optional<DirectIoAlignment> alignment = ask_direct_io_alignment(fd);
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
