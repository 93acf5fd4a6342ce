// SPDX-License-Identifier: Apache-2.0
// A share whose process was killed: what it had written down (fs_keeper.h) is taken up by the next
// one. Everything is checked, because a guest may have written there; and nothing that only the
// sandbox keeps from the host is opened before there is one.
#include <cerrno>
#include <optional>
#include <string_view>
#include <utility>

#include <fcntl.h>

#include "vhost-user-backend/base/log.h"

#include "devices/fs/fs_server.h"
#include "devices/fs/kernel_locks.h"

namespace outrigger::fs {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_MNT_ID;

/// What host_flags() lets through, and O_DIRECTORY.
constexpr uint32_t kOpenFlags = O_ACCMODE | O_DSYNC | O_SYNC | O_DIRECT | O_NOATIME | O_DIRECTORY;

bool is_type(uint32_t type) {
    switch (type) {
        case S_IFREG:
        case S_IFDIR:
        case S_IFLNK:
        case S_IFCHR:
        case S_IFBLK:
        case S_IFIFO:
        case S_IFSOCK:
            return true;
        default:
            return false;
    }
}

/// Does `fd` pin a file (O_PATH) of this type, which has this key?
bool pins(int fd, const InodeKey& key, uint32_t type) {
    const int flags = ::fcntl(fd, F_GETFL);
    const StatResult status = stat_fd(fd, kStatMask);
    return flags >= 0 && (flags & O_PATH) != 0 && status && key_of(*status) == key &&
           (uint32_t{status->stx_mode} & uint32_t{S_IFMT}) == type;
}

/// Is the file open as the guest wanted it?
bool is_open_as(int fd, uint32_t flags) {
    const int found = ::fcntl(fd, F_GETFL);
    const StatResult status = stat_fd(fd, STATX_TYPE);
    const uint32_t type = status ? uint32_t{status->stx_mode} & uint32_t{S_IFMT} : 0;
    return found >= 0 && (found & (O_PATH | O_ACCMODE)) == static_cast<int>(flags & O_ACCMODE) &&
           type == ((flags & O_DIRECTORY) != 0 ? S_IFDIR : S_IFREG);
}

/// A record that no process of ours would write.
void log_lost(std::string_view what, uint64_t id) {
    static LogLimiter limiter;
    limiter.log(LogLevel::kWarning, "fs: the record of {} {:#x} makes no sense", what, id);
}

}  // namespace

Result<void> check_kept(const FsSettings& settings, FsKeeper& kept) {
    if (const FsKeeper::Session session = kept.session(); session.initialized) {
        OUTRIGGER_TRY(check_agreed(settings, session.agreed));
    }
    bool needs_handles = false;
    kept.for_each_inode([&](const KeptInode& inode) {
        needs_handles = needs_handles || (!inode.handle.empty() && !inode.has_descriptor);
    });
    if (needs_handles && settings.handles == HandlePolicy::kNever) {
        return failure(Error{.message = "the files of the guest are kept by their handles, which "
                                        "are not used here (--inode-file-handles)"});
    }
    return {};
}

void FsServer::go_on(FsKeeper& keeper) {
    keeper_ = &keeper;
    keeper.for_each_mount(
        [this](uint64_t mount, UniqueFd fd) { handles_.restore_mount(mount, std::move(fd)); });
    inodes_.set_remembers((keeper.session().agreed & FUSE_EXPORT_SUPPORT) != 0 &&
                          handles_.are_used());
    keeper.for_each_inode([this](const KeptInode& kept) { restore_inode(kept); });
    inodes_.finish_restoring(keeper.inode_generation());
    keeper.for_each_file([this](const KeptFile& kept) { restore_file(kept); });
    files_.finish_restoring(keeper.file_generation());
    keeper.for_each_lock_owner([this](const KeptLockOwner& kept) { restore_lock_owner(kept); });
    for (size_t place = 0; place < interrupts_.size(); ++place) {
        interrupts_[place] = keeper.interrupt(place);
    }
    const FsKeeper::Session session = keeper.session();
    agreed_.store(session.agreed, std::memory_order_relaxed);
    initialized_.store(session.initialized, std::memory_order_relaxed);
    handles_.keep_in(keeper);
    inodes_.keep_in(keeper);
    // Whoever is not root is refused what the file's mode forbids by now.
    files_.keep_in(keeper, !share_.changes_users());
    lock_owners_.keep_in(keeper);
}

void FsServer::restore_inode(const KeptInode& kept) {
    InodeKey key{.mount = kept.mount, .device = kept.device, .number = kept.number};
    UniqueFd fd;
    FileHandle handle;
    if (kept.has_descriptor) {
        fd = keeper_->find_inode(kept.id);
        if (!fd.valid() || !pins(fd.get(), key, kept.type)) {
            fd.reset();
        }
    }
    if (auto bytes = FileHandle::from_bytes(kept.handle); bytes && handles_.are_used()) {
        handle = *std::move(bytes);
    }
    const bool is_lost = !fd.valid() && handle.is_empty();
    if (is_lost || kept.device == KeptInode::kNoDevice ||
        (!handle.is_empty() && inodes_.peek(key))) {
        // Nobody finds it by its key. Whoever asks for its node gets ESTALE, but where the handle
        // leads to a file.
        key = {.mount = kept.mount, .device = KeptInode::kNoDevice, .number = kept.id};
    }
    const bool is_kept = fd.valid() && !handle.is_empty();
    if (!is_type(kept.type) || kept.id == InodeTable::kRootId ||
        !inodes_.restore(kept.id,
                         key,
                         std::move(fd),
                         kept.type,
                         kept.lookups,
                         std::move(handle),
                         {.request = kept.counted_by, .again = false})) {
        log_lost("node", kept.id);
        keeper_->drop_inode(kept.id);
    } else if (const InodeRef inode = inodes_.find(kept.id); inode && is_kept) {
        inode->is_kept.store(true);
    }
}

void FsServer::restore_file(const KeptFile& kept) {
    const InodeRef inode = inodes_.find(kept.node);
    const bool is_directory = (kept.flags & O_DIRECTORY) != 0;
    if (!inode || (kept.flags & ~kOpenFlags) != 0 ||
        inode->type != (is_directory ? S_IFDIR : S_IFREG)) {
        log_lost("open file", kept.handle);
        keeper_->drop_file(kept.handle);
        return;
    }
    UniqueFd fd = kept.has_descriptor ? keeper_->find_file(kept.handle) : UniqueFd();
    if (fd.valid() && !is_open_as(fd.get(), kept.flags)) {
        fd.reset();
    }
    const uint32_t flock = fd.valid() ? kernel_locks_of(fd.get()).flock : F_UNLCK;
    const bool is_kept = fd.valid();
    if (!files_.restore(kept.handle,
                        {.fd = std::move(fd),
                         .node = kept.node,
                         .flags = static_cast<int>(kept.flags),
                         .is_directory = is_directory})) {
        log_lost("open file", kept.handle);
        keeper_->drop_file(kept.handle);
        return;
    }
    const OpenFileRef file = files_.find(kept.handle);
    file->flock.store(flock, std::memory_order_relaxed);
    file->is_kept.store(is_kept, std::memory_order_relaxed);
    file->is_to_open = !is_kept;
    inode->opens.fetch_add(1, std::memory_order_relaxed);
    if (window_ != nullptr && (kept.flags & O_ACCMODE) != O_RDONLY) {
        inode->writers.fetch_add(1, std::memory_order_relaxed);
    }
    is_to_open_again_ = is_to_open_again_ || !is_kept;
}

void FsServer::restore_lock_owner(const KeptLockOwner& kept) {
    const InodeRef inode = inodes_.find(kept.node);
    UniqueFd fd = keeper_->find_lock_owner(kept.place);
    if (!inode || !fd.valid() || (::fcntl(fd.get(), F_GETFL) & O_PATH) != 0) {
        keeper_->drop_lock_owner(kept.place);
        return;
    }
    HeldRanges held = kernel_locks_of(fd.get()).ranges;
    if (!lock_owners_.restore(kept, std::move(fd), std::move(held))) {
        keeper_->drop_lock_owner(kept.place);
    }
}

void FsServer::open_again() {
    const std::lock_guard lock(open_again_mutex_);
    if (!std::exchange(is_to_open_again_, false)) {
        return;
    }
    files_.for_each([this](OpenFileRef& file) {
        if (file->is_to_open) {
            open_again(file);
        }
    });
}

void FsServer::open_window_again() {
    if (window_ == nullptr) {
        return;
    }
    window_->open_again([this](uint64_t node, bool writable) {
        const auto inode = inode_of(node);
        // What the process before left may be made up.
        writable = writable && !settings_.read_only;
        auto fd =
            inode && (*inode)->type == S_IFREG
                ? share_.reopen((*inode)->fd.get(), (*inode)->type, writable ? O_RDWR : O_RDONLY)
                : Result<UniqueFd, Errno>(failure(ESTALE));
        return fd ? *std::move(fd) : UniqueFd();
    });
}

void FsServer::open_again(OpenFileRef& file) {
    file->is_to_open = false;
    const auto inode = inode_of(file->node);
    auto fd = inode ? share_.reopen((*inode)->fd.get(), (*inode)->type, file->flags)
                    : Result<UniqueFd, Errno>(failure(int{inode.error()}));
    if (!fd) {
        static LogLimiter limiter;
        limiter.log(
            LogLevel::kError,
            "fs: {}",
            error_from_code("a file that the guest has open cannot be opened again", fd.error())
                .message);
        return;
    }
    file->fd = *std::move(fd);
}

}  // namespace outrigger::fs
