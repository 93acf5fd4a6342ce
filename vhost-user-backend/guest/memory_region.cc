// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/memory_region.h"

#include <limits>
#include <utility>

#include <sys/stat.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger {

std::optional<FileIdentity> FileIdentity::of(int fd) {
    struct stat status {};

    if (::fstat(fd, &status) != 0) {
        return std::nullopt;
    }
    return FileIdentity{.device = status.st_dev, .inode = status.st_ino};
}

MemoryRegion::MemoryRegion(const MemoryRegionLayout& layout,
                           const FileIdentity& file,
                           Mapping mapping)
    : layout_(layout),
      file_(file),
      mapping_(std::move(mapping)),
      guard_(mapping_.whole().data(), mapping_.whole().size()) {}

Result<MemoryRegion> MemoryRegion::map(const MemoryRegionLayout& layout, int fd) {
    // An end of exactly 2^64 would already wrap to 0: refuse it too, no machine needs it.
    if (layout.size == 0 ||
        !checked_add(static_cast<uint64_t>(layout.guest_address), layout.size) ||
        !checked_add(static_cast<uint64_t>(layout.frontend_address), layout.size) ||
        !checked_add(layout.mmap_offset, layout.size)) {
        return failure(Error{.message = "a memory region is empty or wraps around"});
    }
    if (layout.size > std::numeric_limits<size_t>::max()) {
        return failure(Error{.message = "a memory region does not fit the address space"});
    }
    const auto file = FileIdentity::of(fd);
    if (!file) {
        return failure(error_from_errno("cannot examine the memory file"));
    }
    Mapping mapping =
        OUTRIGGER_TRY(Mapping::map_file(fd, layout.mmap_offset, static_cast<size_t>(layout.size)));
    return MemoryRegion(layout, *file, std::move(mapping));
}

}  // namespace outrigger
