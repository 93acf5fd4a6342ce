// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/file_handle.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>

namespace outrigger::fs {
namespace {

/// struct file_handle up to its bytes.
struct Head {
    uint32_t bytes;
    int32_t type;
};

static_assert(sizeof(Head) == sizeof(struct file_handle));

/// MAX_HANDLE_SZ of Linux.
constexpr size_t kHandleBytesMax = 128;

}  // namespace

Result<FileHandle, Errno> FileHandle::of(int fd) {
    alignas(struct file_handle) std::array<std::byte, sizeof(Head) + kHandleBytesMax> room{};
    const Head wanted{.bytes = kHandleBytesMax, .type = 0};
    std::memcpy(room.data(), &wanted, sizeof wanted);
    int mount = 0;
    // SAFETY: aligned, and as long as the head says; ours alone.
    auto* const handle = reinterpret_cast<struct file_handle*>(room.data());
    if (::name_to_handle_at(fd, "", handle, &mount, AT_EMPTY_PATH) != 0) {
        return failure(int{errno});
    }
    Head head{};
    std::memcpy(&head, room.data(), sizeof head);
    if (head.bytes > kHandleBytesMax) {
        return failure(EOPNOTSUPP);
    }
    FileHandle made;
    const size_t size = sizeof head + head.bytes;
    made.bytes_ = std::make_unique_for_overwrite<std::byte[]>(size);
    std::memcpy(made.bytes_.get(), room.data(), size);
    return made;
}

std::optional<FileHandle> FileHandle::from_bytes(std::span<const std::byte> bytes) {
    Head head{};
    if (bytes.size() < sizeof head) {
        return std::nullopt;
    }
    std::memcpy(&head, bytes.data(), sizeof head);
    if (head.bytes > kHandleBytesMax || bytes.size() != sizeof head + head.bytes) {
        return std::nullopt;
    }
    FileHandle made;
    made.bytes_ = std::make_unique_for_overwrite<std::byte[]>(bytes.size());
    std::memcpy(made.bytes_.get(), bytes.data(), bytes.size());
    return made;
}

std::span<const std::byte> FileHandle::all() const {
    if (bytes_ == nullptr) {
        return {};
    }
    Head head{};
    std::memcpy(&head, bytes_.get(), sizeof head);
    return {bytes_.get(), sizeof head + head.bytes};
}

Result<UniqueFd, Errno> FileHandle::pin(int mount_fd) const {
    // SAFETY: from operator new[], so aligned; as long as its head says; the kernel only reads.
    auto* const handle = reinterpret_cast<struct file_handle*>(bytes_.get());
    const int fd = ::open_by_handle_at(mount_fd, handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return failure(int{errno});
    }
    return UniqueFd(fd);
}

bool FileHandle::is_same(const FileHandle& other) const {
    return std::ranges::equal(all(), other.all());
}

}  // namespace outrigger::fs
