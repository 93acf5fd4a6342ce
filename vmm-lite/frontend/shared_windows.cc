// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/shared_windows.h"

#include <algorithm>
#include <atomic>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kMapWritable = 1;
constexpr size_t kPiecesMax = 4096;

std::atomic<size_t> places_taken = 0;

uint64_t page_bytes() {
    return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// What the kernel knows of a regular file's size, without asking the server of a network or FUSE
/// file system, which may be the back end's own. Nothing for other files.
std::optional<uint64_t> known_size(int fd) {
    struct statx status {};

    if (::statx(fd,
                "",
                AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
                STATX_TYPE | STATX_SIZE,
                &status) != 0 ||
        !S_ISREG(status.stx_mode)) {
        return std::nullopt;
    }
    return status.stx_size;
}

}  // namespace

SharedWindows::Place::Place() {
    ++places_taken;
}

SharedWindows::Place::Place(Place&& other) noexcept : mine_(std::exchange(other.mine_, false)) {}

SharedWindows::Place& SharedWindows::Place::operator=(Place&& other) noexcept {
    std::swap(mine_, other.mine_);
    return *this;
}

SharedWindows::Place::~Place() {
    if (mine_) {
        --places_taken;
    }
}

size_t SharedWindows::Place::taken() {
    return places_taken;
}

size_t SharedWindows::pieces_max() {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0
               ? std::min<size_t>(kPiecesMax, limit.rlim_cur / 2)
               : kPiecesMax;
}

Result<SharedWindows> SharedWindows::reserve(std::span<const uint64_t> sizes, size_t pieces_max) {
    SharedWindows windows;
    windows.pieces_max_ = pieces_max;
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
      pieces_max_(other.pieces_max_),
      observer_(std::exchange(other.observer_, nullptr)),
      pieces_(std::exchange(other.pieces_, {})) {}

SharedWindows& SharedWindows::operator=(SharedWindows&& other) noexcept {
    if (this != &other) {
        release();
        regions_ = std::exchange(other.regions_, {});
        sizes_ = std::exchange(other.sizes_, {});
        pieces_max_ = other.pieces_max_;
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
                                 .bytes_there = piece.bytes_there,
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
    const uint64_t page = page_bytes();
    return request.length > 0 && request.length % page == 0 && request.shm_offset % page == 0 &&
           request.fd_offset % page == 0 && request.fd_offset <= INT64_MAX &&
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

/// Whole pages of a piece that its file has; nothing when the file is none that can be mapped.
std::optional<uint64_t> SharedWindows::bytes_there(const Piece& piece) {
    const auto size = known_size(piece.file.get());
    if (!size) {
        return std::nullopt;
    }
    const uint64_t behind = *size > piece.file_offset ? *size - piece.file_offset : 0;
    return std::min(piece.length, align_up(behind, page_bytes()).value_or(piece.length));
}

Result<void> SharedWindows::map(const wire::ShmemMap& request, UniqueFd file) {
    if (!lies_inside(request)) {
        return failure(Error{.message = fmt::format("{} bytes at {} do not lie in region {}",
                                                    request.length,
                                                    request.shm_offset,
                                                    request.shmid)});
    }
    if ((request.flags & ~kMapWritable) != 0) {
        return failure(Error{
            .message = fmt::format("flags {:#x} say more than the specification", request.flags)});
    }
    Piece piece{.length = request.length,
                .writable = (request.flags & kMapWritable) != 0,
                .file_offset = request.fd_offset,
                .file = std::move(file)};
    // Less than all is usual: a driver maps pages of 2 MiB, of files of any length.
    piece.bytes_there = bytes_there(piece).value_or(0);
    if (piece.bytes_there == 0) {
        return failure(
            Error{.message = fmt::format("nothing lies in the file from {} on, or it is none",
                                         request.fd_offset)});
    }
    if (!make_room(request)) {
        return failure(Error{.message = "something is mapped there"});
    }
    // With this one.
    if (Place::taken() > pieces_max_) {
        return failure(Error{.message = "too many pieces are mapped"});
    }
    std::byte* const at = region(request.shmid).data() + request.shm_offset;
    const int access = PROT_READ | (piece.writable ? PROT_WRITE : 0);
    if (::mmap(at,
               request.length,
               access,
               MAP_SHARED | MAP_FIXED,
               piece.file.get(),
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
    pieces_[{request.shmid, request.shm_offset}] = std::move(piece);
    return {};
}

void SharedWindows::look_at_files() {
    for (auto& [place, piece] : pieces_) {
        const uint64_t there = bytes_there(piece).value_or(0);
        if (there != piece.bytes_there) {
            piece.bytes_there = there;
            if (observer_ != nullptr) {
                observer_->on_resized(place.first, place.second, there);
            }
        }
    }
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
