// SPDX-License-Identifier: Apache-2.0
// Attributes of files, and of the file system.
#include <array>
#include <cerrno>
#include <chrono>

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

StatxTime sx_time(const statx_timestamp& time) {
    return {.seconds = time.tv_sec, .nanoseconds = time.tv_nsec, .reserved = 0};
}

StatxAttributes sx_attributes(const struct statx& status) {
    StatxAttributes out{};
    out.mask = status.stx_mask & (STATX_BASIC_STATS | STATX_BTIME);
    out.blksize = status.stx_blksize;
    out.attributes = status.stx_attributes;
    out.nlink = status.stx_nlink;
    out.mode = status.stx_mode;
    out.ino = status.stx_ino;
    out.size = status.stx_size;
    out.blocks = status.stx_blocks;
    out.attributes_mask = status.stx_attributes_mask;
    out.atime = sx_time(status.stx_atime);
    out.btime = sx_time(status.stx_btime);
    out.ctime = sx_time(status.stx_ctime);
    out.mtime = sx_time(status.stx_mtime);
    out.rdev_major = status.stx_rdev_major;
    out.rdev_minor = status.stx_rdev_minor;
    out.dev_major = status.stx_dev_major;
    out.dev_minor = status.stx_dev_minor;
    return out;
}

timespec wished_time(const fuse_setattr_in& wish,
                     uint32_t now,
                     uint32_t given,
                     uint64_t seconds,
                     uint32_t nanoseconds) {
    if ((wish.valid & now) != 0) {
        return {.tv_sec = 0, .tv_nsec = UTIME_NOW};
    }
    if ((wish.valid & given) != 0) {
        return {.tv_sec = static_cast<time_t>(seconds), .tv_nsec = static_cast<long>(nanoseconds)};
    }
    return {.tv_sec = 0, .tv_nsec = UTIME_OMIT};
}

}  // namespace

fuse_attr FsServer::make_attr(const struct stat& status) const {
    fuse_attr attr{};
    attr.ino = status.st_ino;
    attr.size = static_cast<uint64_t>(status.st_size);
    attr.blocks = static_cast<uint64_t>(status.st_blocks);
    attr.atime = static_cast<uint64_t>(status.st_atim.tv_sec);
    attr.mtime = static_cast<uint64_t>(status.st_mtim.tv_sec);
    attr.ctime = static_cast<uint64_t>(status.st_ctim.tv_sec);
    attr.atimensec = static_cast<uint32_t>(status.st_atim.tv_nsec);
    attr.mtimensec = static_cast<uint32_t>(status.st_mtim.tv_nsec);
    attr.ctimensec = static_cast<uint32_t>(status.st_ctim.tv_nsec);
    attr.mode = status.st_mode;
    attr.nlink = static_cast<uint32_t>(status.st_nlink);
    attr.uid = settings_.uids.to_guest(status.st_uid);
    attr.gid = settings_.gids.to_guest(status.st_gid);
    attr.rdev = encode_device(major(status.st_rdev), minor(status.st_rdev));
    attr.blksize = static_cast<uint32_t>(status.st_blksize);
    attr.flags = attribute_flags(attr.mode, attr.size);
    return attr;
}

fuse_attr FsServer::make_attr(const struct statx& status) const {
    fuse_attr attr{};
    attr.ino = status.stx_ino;
    attr.size = status.stx_size;
    attr.blocks = status.stx_blocks;
    attr.atime = static_cast<uint64_t>(status.stx_atime.tv_sec);
    attr.mtime = static_cast<uint64_t>(status.stx_mtime.tv_sec);
    attr.ctime = static_cast<uint64_t>(status.stx_ctime.tv_sec);
    attr.atimensec = status.stx_atime.tv_nsec;
    attr.mtimensec = status.stx_mtime.tv_nsec;
    attr.ctimensec = status.stx_ctime.tv_nsec;
    attr.mode = status.stx_mode;
    attr.nlink = status.stx_nlink;
    attr.uid = settings_.uids.to_guest(status.stx_uid);
    attr.gid = settings_.gids.to_guest(status.stx_gid);
    attr.rdev = encode_device(status.stx_rdev_major, status.stx_rdev_minor);
    attr.blksize = status.stx_blksize;
    attr.flags = attribute_flags(attr.mode, attr.size);
    return attr;
}

Verdict FsServer::answer_attributes(Call& call, const struct stat& status) const {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(settings_.timeout);
    fuse_attr_out out{};
    out.attr_valid = static_cast<uint64_t>(seconds.count());
    out.attr_valid_nsec = static_cast<uint32_t>((settings_.timeout - seconds).count());
    out.attr = make_attr(status);
    return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
}

Verdict FsServer::getattr(Call& call) {
    OUTRIGGER_FS_TRY(parse_fixed<fuse_getattr_in>(call.body));

    struct stat status;
    {
        // Given back before the answer: that takes an atomic operation, which waits for the stores
        // before it, and those to memory that the driver has just used take long.
        const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
        OUTRIGGER_FS_TRY(read_attributes(inode->fd.get(), status));
    }

    return answer_attributes(call, status);
}

Verdict FsServer::statx(Call& call) {
    const StatxIn args = OUTRIGGER_FS_TRY(parse_fixed<StatxIn>(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    const auto status = OUTRIGGER_FS_TRY(
        stat_fd(inode->fd.get(), (args.sx_mask & STATX_BTIME) | STATX_BASIC_STATS));
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(settings_.timeout);
    StatxOut out{};
    out.attr_valid = static_cast<uint64_t>(seconds.count());
    out.attr_valid_nsec = static_cast<uint32_t>((settings_.timeout - seconds).count());
    out.stat = sx_attributes(status);
    out.stat.uid = settings_.uids.to_guest(status.stx_uid);
    out.stat.gid = settings_.gids.to_guest(status.stx_gid);
    return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
}

Errno FsServer::change_mode(const Inode& inode, const fuse_setattr_in& wish) {
    if ((wish.valid & FATTR_MODE) == 0) {
        return 0;
    }
    if (inode.type == S_IFLNK) {
        return EOPNOTSUPP;
    }
    return ::fchmodat(share_.proc_fd(), FdName(inode.fd.get()).c_str(), wish.mode & 07777, 0) == 0
               ? 0
               : errno;
}

Errno FsServer::change_owner(const Inode& inode, const fuse_setattr_in& wish) {
    if ((wish.valid & (FATTR_UID | FATTR_GID)) == 0) {
        return 0;
    }
    constexpr uint32_t kUnchanged = UINT32_MAX;
    const auto uid = settings_.uids.to_host((wish.valid & FATTR_UID) != 0 ? wish.uid : kUnchanged);
    const auto gid = settings_.gids.to_host((wish.valid & FATTR_GID) != 0 ? wish.gid : kUnchanged);
    if (!uid || !gid) {
        return EPERM;
    }
    if (::fchownat(inode.fd.get(), "", *uid, *gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
        return errno;
    }
    drop_mapped_capabilities(inode.fd.get());
    return 0;
}

Errno FsServer::change_size(const Inode& inode, const fuse_setattr_in& wish) {
    if ((wish.valid & FATTR_SIZE) == 0) {
        return 0;
    }
    if (inode.type != S_IFREG) {
        return inode.type == S_IFDIR ? EISDIR : EINVAL;
    }
    if (wish.size > INT64_MAX) {
        return EFBIG;
    }
    const ScopedWithoutFsetid as_user(capabilities_, (wish.valid & FATTR_KILL_SUIDGID) != 0);
    drop_mapped_capabilities(inode.fd.get());
    const auto size = static_cast<off_t>(wish.size);
    if ((wish.valid & FATTR_FH) != 0) {
        const OpenFileRef file = files_.find(wish.fh);
        if (!file || file->is_directory()) {
            return EBADF;
        }
        if ((file->flags & O_ACCMODE) != O_RDONLY) {
            return ::ftruncate(file->fd.get(), size) == 0 ? 0 : errno;
        }
    }
    // Relative to the thread's working directory, which is /proc/self/fd.
    return ::truncate(FdName(inode.fd.get()).c_str(), size) == 0 ? 0 : errno;
}

Errno FsServer::change_times(const Inode& inode, const fuse_setattr_in& wish) {
    if ((wish.valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)) == 0) {
        return 0;
    }
    const std::array<timespec, 2> times = {
        wished_time(wish, FATTR_ATIME_NOW, FATTR_ATIME, wish.atime, wish.atimensec),
        wished_time(wish, FATTR_MTIME_NOW, FATTR_MTIME, wish.mtime, wish.mtimensec)};
    return ::utimensat(inode.fd.get(), "", times.data(), AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0
               ? 0
               : errno;
}

Verdict FsServer::setattr(Call& call) {
    const auto wish = OUTRIGGER_FS_TRY(parse_fixed<fuse_setattr_in>(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    if ((wish.valid & FATTR_FH) != 0) {
        OUTRIGGER_FS_TRY(file_of(wish.fh, call.header.node));
    }
    // Size comes before times, because it changes them; owner before size, because a new owner's
    // file loses set-user-id.
    for (const auto change : {&FsServer::change_mode,
                              &FsServer::change_owner,
                              &FsServer::change_size,
                              &FsServer::change_times}) {
        if (const Errno error = (this->*change)(*inode, wish); error != 0) {
            return failed(error);
        }
    }
    struct stat status;
    OUTRIGGER_FS_TRY(read_attributes(inode->fd.get(), status));
    return answer_attributes(call, status);
}

Verdict FsServer::access(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_access_in>(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    const GuestUser user = OUTRIGGER_FS_TRY(user_of(call, {}));
    const ScopedUser as(
        capabilities_,
        GuestUser{.uid = user.uid, .gid = user.gid, .group = {}, .checks_access = true});
    if (!as.holds()) {
        return failed(EOVERFLOW);
    }
    if ((args.mask & ~uint32_t{R_OK | W_OK | X_OK}) != 0) {
        return failed(EINVAL);
    }
    // The kernel's own answer, with access control lists and all.
    const long result = ::syscall(SYS_faccessat2,
                                  inode->fd.get(),
                                  "",
                                  args.mask,
                                  AT_EMPTY_PATH | AT_EACCESS | AT_SYMLINK_NOFOLLOW);
    return result == 0 ? Verdict::kAnswered : failed(errno);
}

Verdict FsServer::readlink(Call& call) {
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    if (!call.body.empty()) {
        return failed(EINVAL);
    }
    std::array<char, PATH_MAX> target;
    const ssize_t bytes = ::readlinkat(inode->fd.get(), "", target.data(), target.size());
    if (bytes < 0) {
        return failed(inode->type == S_IFLNK ? errno : EINVAL);
    }
    const auto text = std::span(target).first(static_cast<size_t>(bytes));
    return call.reply.append(std::as_bytes(text)) ? Verdict::kAnswered : failed(EINVAL);
}

Verdict FsServer::statfs(Call& call) {
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    struct statfs status = {};
    if (!call.body.empty()) {
        return failed(EINVAL);
    }
    if (::fstatfs(inode->fd.get(), &status) != 0) {
        return failed(errno);
    }
    fuse_statfs_out out{};
    out.st.blocks = status.f_blocks;
    out.st.bfree = status.f_bfree;
    out.st.bavail = status.f_bavail;
    out.st.files = status.f_files;
    out.st.ffree = status.f_ffree;
    out.st.bsize = static_cast<uint32_t>(status.f_bsize);
    out.st.namelen = static_cast<uint32_t>(status.f_namelen);
    out.st.frsize = static_cast<uint32_t>(status.f_frsize);
    return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
}

}  // namespace outrigger::fs
