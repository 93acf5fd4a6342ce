// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/shared_windows.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kMapWritable = 1;

}  // namespace

Result<SharedWindows> SharedWindows::reserve(std::span<const uint64_t> sizes) {
    SharedWindows windows;
    windows.sizes_.assign(sizes.begin(), sizes.end());
    for (const uint64_t size : sizes) {
        if (size == 0) {
            windows.regions_.emplace_back();
            continue;
        }
        void* const base =
            ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            return failure(error_from_errno(
                fmt::format("cannot reserve {} bytes of addresses for shared memory", size)));
        }
        windows.regions_.emplace_back(static_cast<std::byte*>(base), size);
    }
    return windows;
}

SharedWindows::SharedWindows(SharedWindows&& other) noexcept
    : regions_(std::exchange(other.regions_, {})),
      sizes_(std::exchange(other.sizes_, {})),
      observer_(std::exchange(other.observer_, nullptr)),
      pieces_(std::exchange(other.pieces_, {})) {}

SharedWindows& SharedWindows::operator=(SharedWindows&& other) noexcept {
    if (this != &other) {
        release();
        regions_ = std::exchange(other.regions_, {});
        sizes_ = std::exchange(other.sizes_, {});
        observer_ = std::exchange(other.observer_, nullptr);
        pieces_ = std::exchange(other.pieces_, {});
    }
    return *this;
}

SharedWindows::~SharedWindows() {
    release();
}

Result<void> SharedWindows::tell_mapped(uint8_t id, uint64_t offset, const Piece& piece) const {
    if (observer_ == nullptr) {
        return {};
    }
    return observer_->on_mapped({.region = id,
                                 .offset = offset,
                                 .memory = region(id).subspan(offset, piece.length),
                                 .writable = piece.writable});
}

void SharedWindows::observe(DeviceProxy::SharedMemoryObserver* observer) {
    observer_ = observer;
    for (const auto& [place, piece] : pieces_) {
        if (const auto told = tell_mapped(place.first, place.second, piece); !told) {
            log(LogLevel::kWarning, "shared memory: {}", told.error().message);
        }
    }
}

void SharedWindows::release() {
    for (const auto& region : regions_) {
        if (!region.empty()) {
            ::munmap(region.data(), region.size());
        }
    }
    regions_.clear();
    pieces_.clear();
}

std::span<std::byte> SharedWindows::region(size_t id) const {
    return id < regions_.size() ? regions_[id] : std::span<std::byte>{};
}

bool SharedWindows::lies_inside(const wire::ShmemMap& request) const {
    const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    return request.length > 0 && request.length % page_bytes == 0 &&
           request.shm_offset % page_bytes == 0 && request.fd_offset % page_bytes == 0 &&
           range_fits<uint64_t>(request.shm_offset, request.length, region(request.shmid).size());
}

/// False when a piece of this back end's is in the way. Those of the one before it make room.
bool SharedWindows::make_room(const wire::ShmemMap& request) {
    const uint64_t end = request.shm_offset + request.length;
    std::vector<Pieces::iterator> stale;
    for (auto piece = pieces_.lower_bound({request.shmid, 0});
         piece != pieces_.end() && piece->first.first == request.shmid;
         ++piece) {
        const uint64_t begin = piece->first.second;
        if (begin >= end || begin + piece->second.length <= request.shm_offset) {
            continue;
        }
        if (!piece->second.stale) {
            return false;
        }
        stale.push_back(piece);
    }
    for (const auto piece : stale) {
        if (!take_away(request.shmid, piece->first.second, piece->second.length)) {
            return false;
        }
        pieces_.erase(piece);
    }
    return true;
}

Result<void> SharedWindows::map(const wire::ShmemMap& request, int fd) {
    if (!lies_inside(request)) {
        return failure(Error{.message = fmt::format("{} bytes at {} do not lie in region {}",
                                                    request.length,
                                                    request.shm_offset,
                                                    request.shmid)});
    }

    struct stat file {};

    if (::fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) ||
        !range_fits<uint64_t>(
            request.fd_offset, request.length, static_cast<uint64_t>(file.st_size))) {
        return failure(
            Error{.message = fmt::format(
                      "{} bytes at {} do not lie in the file", request.length, request.fd_offset)});
    }
    if (!make_room(request)) {
        return failure(Error{.message = "something is mapped there"});
    }
    if (pieces_.size() >= kPiecesMax) {
        return failure(Error{.message = "too many pieces are mapped"});
    }
    std::byte* const at = region(request.shmid).data() + request.shm_offset;
    const Piece piece{.length = request.length, .writable = (request.flags & kMapWritable) != 0};
    const int access = PROT_READ | (piece.writable ? PROT_WRITE : 0);
    if (::mmap(at,
               request.length,
               access,
               MAP_SHARED | MAP_FIXED,
               fd,
               static_cast<off_t>(request.fd_offset)) == MAP_FAILED) {
        const Error error = error_from_errno("cannot map");
        // A failed MAP_FIXED may have taken away what was there.
        (void)take_away(request.shmid, request.shm_offset, request.length);
        return failure(error);
    }
    if (auto told = tell_mapped(request.shmid, request.shm_offset, piece); !told) {
        (void)take_away(request.shmid, request.shm_offset, request.length);
        return told;
    }
    pieces_[{request.shmid, request.shm_offset}] = piece;
    return {};
}

bool SharedWindows::take_away(uint8_t id, uint64_t offset, uint64_t length) {
    if (observer_ != nullptr) {
        observer_->on_unmapping(id, offset);
    }
    return ::mmap(region(id).data() + offset,
                  length,
                  PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                  -1,
                  0) != MAP_FAILED;
}

Result<void> SharedWindows::unmap(const wire::ShmemMap& request) {
    const auto piece = pieces_.find({request.shmid, request.shm_offset});
    if (piece == pieces_.end() || piece->second.length != request.length) {
        return failure(Error{.message = fmt::format("{} bytes at {} of region {} are no mapping",
                                                    request.length,
                                                    request.shm_offset,
                                                    request.shmid)});
    }
    if (!take_away(request.shmid, request.shm_offset, request.length)) {
        return failure(error_from_errno("cannot unmap"));
    }
    pieces_.erase(piece);
    return {};
}

void SharedWindows::unmap_all() {
    for (const auto& [place, piece] : pieces_) {
        (void)take_away(place.first, place.second, piece.length);
    }
    pieces_.clear();
}

void SharedWindows::expect_anew() {
    for (auto& [place, piece] : pieces_) {
        piece.stale = true;
    }
}

}  // namespace outrigger::vmm
