// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/mapping.h"

#include <limits>
#include <utility>

#include <sys/mman.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/platform.h"

namespace outrigger {

Mapping::Mapping(Mapping&& other) noexcept
    : map_base_(std::exchange(other.map_base_, nullptr)),
      map_length_(std::exchange(other.map_length_, 0)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    if (this != &other) {
        unmap();
        map_base_ = std::exchange(other.map_base_, nullptr);
        map_length_ = std::exchange(other.map_length_, 0);
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

Mapping::~Mapping() {
    unmap();
}

void Mapping::unmap() {
    if (map_base_ != nullptr) {
        ::munmap(map_base_, map_length_);
        map_base_ = nullptr;
    }
}

namespace {

/// Pages of a file.
struct FilePages {
    uint64_t page_bytes = 0;
    off_t start = 0;
    size_t slack = 0;  // before the range
    size_t bytes = 0;
};

Result<FilePages> pages_of(int fd, uint64_t offset, size_t length) {
    struct stat status {};

    if (::fstat(fd, &status) != 0) {
        return failure(error_from_errno("cannot examine the memory file"));
    }
    if (!S_ISREG(status.st_mode)) {
        return failure(
            Error{.message = "the memory file is not a regular file, memfd or shm object"});
    }
    // hugetlbfs and memfd report their size like any file. VIRTIO memory behind the end of the
    // file would raise SIGBUS at the first access.
    const auto file_size = static_cast<uint64_t>(status.st_size);
    if (length == 0 || !range_fits<uint64_t>(offset, length, file_size)) {
        return failure(Error{.message = "the memory file is shorter than the region in it"});
    }
    const uint64_t page = platform::page_bytes_of(fd);
    const uint64_t aligned = align_down<uint64_t>(offset, page);
    const uint64_t slack = offset - aligned;
    const auto used = checked_add<uint64_t>(slack, length);
    const auto total = used ? align_up<uint64_t>(*used, page) : std::nullopt;
    if (!total || *total > std::numeric_limits<size_t>::max() ||
        aligned > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
        return failure(Error{.message = "the memory region does not fit the address space"});
    }
    return FilePages{.page_bytes = page,
                     .start = static_cast<off_t>(aligned),
                     .slack = static_cast<size_t>(slack),
                     .bytes = static_cast<size_t>(*total)};
}

}  // namespace

Result<Mapping> Mapping::map_file(int fd, uint64_t offset, size_t length) {
    const FilePages pages = OUTRIGGER_TRY(pages_of(fd, offset, length));
    void* base = ::mmap(
        nullptr, pages.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, pages.start);
    if (base == MAP_FAILED) {
        return failure(error_from_errno("cannot map the memory file"));
    }
    Mapping mapping;
    mapping.map_base_ = static_cast<std::byte*>(base);
    mapping.map_length_ = pages.bytes;
    platform::keep_out_of_core_files(mapping.whole());
    mapping.data_ = mapping.map_base_ + pages.slack;
    mapping.size_ = length;
    return mapping;
}

Result<Mapping> Mapping::map_file_behind_page(int fd, uint64_t offset, size_t length) {
    const FilePages pages = OUTRIGGER_TRY(pages_of(fd, offset, length));
    if (pages.slack != 0) {
        return failure(Error{.message = "what lies behind a page of our own begins with one"});
    }
    constexpr int kAccess = PROT_READ | PROT_WRITE;
    const size_t total = static_cast<size_t>(pages.page_bytes) + pages.bytes;
    // Only room for the file at first, of which nothing is accounted for: that may be large.
    void* const base =
        ::mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return failure(error_from_errno("cannot map memory"));
    }
    Mapping mapping;
    mapping.map_base_ = static_cast<std::byte*>(base);
    mapping.map_length_ = total;
    mapping.data_ = mapping.map_base_ + pages.page_bytes;
    mapping.size_ = length;
    constexpr int kShared = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;
    if (::mprotect(mapping.map_base_, static_cast<size_t>(pages.page_bytes), kAccess) != 0 ||
        ::mmap(mapping.data_, pages.bytes, kAccess, kShared, fd, pages.start) == MAP_FAILED) {
        return failure(error_from_errno("cannot map the memory file"));
    }
    platform::keep_out_of_core_files(mapping.whole());
    return mapping;
}

}  // namespace outrigger
