// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/inode_handles.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/log.h"

namespace outrigger::fs {
namespace {

/// Something open on the mount of what `fd` pins, by which `handle` leads back to a file.
Result<UniqueFd, Errno> open_mount(const Share& share,
                                   int fd,
                                   uint32_t type,
                                   const FileHandle& handle) {
    UniqueFd opened = OUTRIGGER_TRY(share.reopen(fd, type, O_RDONLY));
    OUTRIGGER_TRY(handle.pin(opened.get()));
    return opened;
}

/// The mount has no handles, or we may not use them; anything else passes.
bool is_of_the_mount(Errno error) {
    return error == EOPNOTSUPP || error == EPERM || error == ESTALE;
}

}  // namespace

InodeHandles::InodeHandles(HandlePolicy policy,
                           const Share& share,
                           InodeTable& inodes,
                           std::function<uint64_t()> open_max)
    : policy_(policy), share_(share), inodes_(inodes), open_max_(std::move(open_max)) {
    if (!are_used()) {
        return;
    }
    const StatResult root = stat_fd(share.root_fd(), STATX_BASIC_STATS | STATX_MNT_ID);
    const auto handle = FileHandle::of(share.root_fd());
    if (root && handle) {
        // Whatever is looked up first on it: only files and directories can say for others.
        const uint32_t type = uint32_t{root->stx_mode} & uint32_t{S_IFMT};
        root_mount_ = mount_of(share.root_fd(), key_of(*root), type, *handle);
    }
}

Result<HandlePolicy> InodeHandles::check(HandlePolicy policy, const Share& share) {
    if (policy == HandlePolicy::kNever) {
        return policy;
    }
    const StatResult status = stat_fd(share.root_fd(), STATX_TYPE);
    const auto handle = FileHandle::of(share.root_fd());
    const uint32_t type = status ? uint32_t{status->stx_mode} & uint32_t{S_IFMT} : 0;
    if (handle && open_mount(share, share.root_fd(), type, *handle)) {
        return policy;
    }
    constexpr const char* kWhy =
        "the file system has no handles, or the process may not open files by them "
        "(CAP_DAC_READ_SEARCH)";
    if (policy == HandlePolicy::kMandatory) {
        return failure(Error{.message = std::string("--inode-file-handles=mandatory: ") + kWhy});
    }
    log(LogLevel::kWarning, "--inode-file-handles=prefer: {}: each file takes a descriptor", kWhy);
    return HandlePolicy::kNever;
}

std::optional<int> InodeHandles::find_mount(uint64_t mount) const {
    const std::lock_guard lock(mounts_mutex_);
    const auto found = mounts_.find(mount);
    return found == mounts_.end() ? std::nullopt : std::optional(found->second.get());
}

/// Nothing where a file of another type must say first whether there are handles; -1 where there
/// are none.
std::optional<int> InodeHandles::mount_of(int fd,
                                          const InodeKey& key,
                                          uint32_t type,
                                          const FileHandle& handle) {
    if (const auto known = find_mount(key.mount)) {
        return known;
    }
    if (type != S_IFREG && type != S_IFDIR) {
        return std::nullopt;
    }
    auto opened = open_mount(share_, fd, type, handle);
    if (!opened && !is_of_the_mount(opened.error())) {
        return std::nullopt;  // the next file says it
    }
    const std::lock_guard lock(mounts_mutex_);
    const auto [at, is_new] = mounts_.emplace(key.mount, opened ? *std::move(opened) : UniqueFd());
    if (is_new && keeper_ != nullptr && at->second.valid()) {
        keeper_->add_mount(key.mount, at->second.get());
    }
    return at->second.get();
}

Result<FileHandle, Errno> InodeHandles::make(const UniqueFd& fd,
                                             const InodeKey& key,
                                             uint32_t type) {
    if (policy_ == HandlePolicy::kNever) {
        return FileHandle();
    }
    auto handle = FileHandle::of(fd.get());
    if (handle) {
        const auto mount = mount_of(fd.get(), key, type, *handle);
        const bool is_short =
            keeper_ == nullptr || handle->all().size() <= KeptInode::kHandleBytesMax;
        if (mount && *mount >= 0 && is_short) {
            return handle;
        }
    }
    if (policy_ == HandlePolicy::kMandatory) {
        return failure(EOPNOTSUPP);
    }
    return FileHandle();
}

Result<UniqueFd, Errno> InodeHandles::pin_removed(const FileHandle& handle) {
    if (!root_mount_ || *root_mount_ < 0) {
        return failure(EOPNOTSUPP);
    }
    UniqueFd fd = OUTRIGGER_TRY(handle.pin(*root_mount_));
    const auto status = OUTRIGGER_TRY(stat_fd(fd.get(), STATX_NLINK));
    if (status.stx_nlink != 0) {
        return failure(ESTALE);
    }
    return fd;
}

Result<UniqueFd, Errno> InodeHandles::pin(const Inode& inode) const {
    // A mount that was found is kept.
    const auto mount = find_mount(inode.key.mount);
    if (!mount) {
        return failure(ESTALE);
    }
    auto fd = inode.handle.pin(*mount);
    if (!fd) {
        return failure(fd.error() == EMFILE ? ENFILE : fd.error());
    }
    return fd;
}

Result<void, Errno> InodeHandles::reopen(const InodeRef& inode) {
    UniqueFd fd = OUTRIGGER_TRY(pin(*inode));
    if (inode->fd.install(fd)) {
        note_open(inode);
    }
    return {};
}

void InodeHandles::note_open(const InodeRef& inode) {
    inode->is_recent.store(true, std::memory_order_relaxed);
    const std::lock_guard lock(open_mutex_);
    const uint64_t open_max = open_max_();
    while (open_.size() >= open_max && close_one()) {
    }
    open_.push_back(inode.id());
    open_count_.store(open_.size(), std::memory_order_relaxed);
}

/// Called with the lock. False: all are in use.
bool InodeHandles::close_one() {
    // Twice around: the first time whoever was asked for lately is only noted.
    for (size_t steps = 0; steps < 2 * open_.size(); ++steps) {
        hand_ = hand_ + 1 < open_.size() ? hand_ + 1 : 0;
        if (inodes_.close_unused(open_[hand_])) {
            open_[hand_] = open_.back();
            open_.pop_back();
            return true;
        }
    }
    return false;
}

void InodeHandles::keep_in(FsKeeper& keeper) {
    const std::lock_guard lock(mounts_mutex_);
    keeper_ = &keeper;
}

void InodeHandles::restore_mount(uint64_t mount, UniqueFd fd) {
    const std::lock_guard lock(mounts_mutex_);
    (void)mounts_.emplace(mount, std::move(fd));
}

}  // namespace outrigger::fs
