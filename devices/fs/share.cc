// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/share.h"

#include <cerrno>
#include <string>
#include <utility>

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"

#include "devices/fs/user_namespace.h"

namespace outrigger::fs {
namespace {

/// STATX_MNT_ID, in case the C library is older than the kernel.
constexpr unsigned kMountId = STATX_MNT_ID;

/// A mount of our own of what `path` is, with everything that is mounted below it. Invalid where
/// the process may not have one (errno).
UniqueFd clone_tree(const std::string& path) {
    return UniqueFd(
        ::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
}

/// False where the process may not do that (errno). Of a user namespace the maps are the mount's.
bool shape_mount(const UniqueFd& tree, bool read_only, const UniqueFd& user_namespace) {
    mount_attr attributes{};
    attributes.attr_set =
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (read_only ? MOUNT_ATTR_RDONLY : 0);
    attributes.propagation = MS_PRIVATE;
    if (user_namespace.valid()) {
        attributes.attr_set |= MOUNT_ATTR_IDMAP;
        attributes.userns_fd = static_cast<decltype(attributes.userns_fd)>(user_namespace.get());
    }
    return ::mount_setattr(
               tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) == 0;
}

/// Nothing is cloned: this looks up an empty path and no more, which costs less than any name.
UniqueFd pin_by_tree(int fd) {
    return UniqueFd(::open_tree(fd, "", unsigned{AT_EMPTY_PATH} | OPEN_TREE_CLOEXEC));
}

UniqueFd clone_mount(const std::string& path, bool read_only) {
    UniqueFd tree = clone_tree(path);
    if (tree.valid() && !shape_mount(tree, read_only, UniqueFd())) {
        const int error = errno;
        tree.reset();
        errno = error;
    }
    return tree;
}

/// One in which the files of some users are others'; no other will do.
Result<UniqueFd> clone_mapped_mount(const FsSettings& settings) {
    if (::geteuid() != 0) {
        return failure(Error{.message = "--translate-by=mount takes root"});
    }
    const UniqueFd users =
        OUTRIGGER_TRY(make_user_namespace(settings.mount_uids, settings.mount_gids));
    UniqueFd tree = clone_tree(settings.shared_dir);
    if (!tree.valid()) {
        return failure(error_from_errno("--translate-by=mount: cannot clone the mount of '" +
                                        settings.shared_dir + "'"));
    }
    if (!shape_mount(tree, settings.read_only, users)) {
        const int error = errno;
        return failure(error_from_code(
            error == EINVAL
                ? "--translate-by=mount: the file system of '" + settings.shared_dir +
                      "', or one that is mounted below, has no mapped mounts"
                : "--translate-by=mount: cannot map the mount of '" + settings.shared_dir + "'",
            error));
    }
    return tree;
}

}  // namespace

FdName::FdName(int fd) : begin_(text_ + sizeof text_ - 1) {
    char* at = text_ + sizeof text_ - 1;
    auto rest = static_cast<unsigned>(fd);
    do {
        *--at = static_cast<char>('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    begin_ = at;
}

InodeKey key_of(const struct statx& status) {
    return {.mount = status.stx_mnt_id,
            .device = uint64_t{status.stx_dev_major} << 32 | status.stx_dev_minor,
            .number = status.stx_ino};
}

FileSystemKind kind_of(int fd) {
    struct statfs status = {};
    if (::fstatfs(fd, &status) != 0) {
        return {};
    }
    // Those that have a server to tell, others that do (F2FS, overlays), and whoever is not known
    // are left out.
    const bool is_in_memory = status.f_type == TMPFS_MAGIC;
    return {.is_in_memory = is_in_memory,
            .ignores_closes = is_in_memory || status.f_type == EXT4_SUPER_MAGIC ||
                              status.f_type == XFS_SUPER_MAGIC ||
                              status.f_type == BTRFS_SUPER_MAGIC};
}

StatResult stat_fd(int fd, unsigned mask) {
    struct statx status = {};
    if (::statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, mask, &status) !=
        0) {
        return failure(int{errno});
    }
    return status;
}

StatResult stat_name(int directory, const char* name, unsigned mask) {
    StatResult status(std::in_place);
    if (const auto read = read_status(directory, name, mask, *status); !read) {
        return failure(Errno{read.error()});
    }
    return status;
}

Result<Share> Share::begin() {
    Share share;
    share.proc_ = UniqueFd(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!share.proc_.valid()) {
        return failure(error_from_errno("cannot open /proc/self/fd: mount /proc"));
    }
    share.own_user_ = ::geteuid();
    share.changes_users_ = share.own_user_ == 0;
    // Not where a filter around us knows no call as young as Linux 5.2; one that kills for it does
    // so now, and not when the first guest makes a file.
    share.has_open_tree_ = pin_by_tree(share.proc_.get()).valid();
    return share;
}

Result<Share> Share::open(const FsSettings& settings) {
    Share share = OUTRIGGER_TRY(begin());
    if (!settings.mount_uids.empty()) {
        share.root_ = OUTRIGGER_TRY(clone_mapped_mount(settings));
    } else if (share.changes_users_) {
        share.root_ = clone_mount(settings.shared_dir, settings.read_only);
        if (!share.root_.valid()) {
            log(LogLevel::kWarning,
                "{}: the share is no mount of its own, so set-user-id files in it stay what they "
                "are for the host",
                error_from_errno("cannot clone the mount").message);
        }
    }
    share.is_own_mount_ = share.root_.valid();
    if (!share.root_.valid()) {
        share.root_ = UniqueFd(::open(settings.shared_dir.c_str(), O_PATH | O_CLOEXEC));
    }
    if (!share.root_.valid()) {
        return failure(error_from_errno("cannot open '" + settings.shared_dir + "'"));
    }
    OUTRIGGER_TRY(share.check_root(settings));
    return share;
}

/// The keeper had `root` from a process whose guest may have taken it over, and what is below it is
/// what this one will be confined to: so it is believed no more than the command line.
Result<Share> Share::go_on(const FsSettings& settings, UniqueFd root) {
    Share share = OUTRIGGER_TRY(begin());
    share.root_ = std::move(root);
    OUTRIGGER_TRY(share.check_root(settings));
    const UniqueFd named(::open(settings.shared_dir.c_str(), O_PATH | O_CLOEXEC));
    const StatResult wanted = stat_fd(named.get(), STATX_BASIC_STATS | kMountId);
    const StatResult found = stat_fd(share.root_.get(), STATX_BASIC_STATS | kMountId);
    if (!wanted || !found || key_of(*wanted).device != key_of(*found).device ||
        wanted->stx_ino != found->stx_ino) {
        return failure(Error{.message = "'" + settings.shared_dir +
                                        "' is not the directory any more that the guest has"});
    }
    share.is_own_mount_ = key_of(*wanted).mount != key_of(*found).mount;
    return share;
}

Result<void> Share::check_root(const FsSettings& settings) const {
    const StatResult status = stat_fd(root_.get(), STATX_BASIC_STATS | kMountId);
    if (!status) {
        return failure(
            error_from_code("cannot stat '" + settings.shared_dir + "'", status.error()));
    }
    if (!S_ISDIR(status->stx_mode) && !S_ISREG(status->stx_mode)) {
        return failure(
            Error{.message = "'" + settings.shared_dir + "' is neither a directory nor a file"});
    }
    return {};
}

UniqueFd Share::duplicate_root() const {
    return UniqueFd(::fcntl(root_.get(), F_DUPFD_CLOEXEC, 0));
}

Result<void> Share::adopt_thread() const {
    static thread_local const Share* adopted_by = nullptr;
    if (adopted_by == this) {
        return {};
    }
    if (::unshare(CLONE_FS) != 0 || ::fchdir(proc_.get()) != 0) {
        return failure(error_from_errno("cannot give a thread its own working directory"));
    }
    // The groups that the process was started with are of no user of the guest's. Not by the C
    // library, which would change every thread. Who may not do this changes no users, either.
    if (changes_users_ && ::syscall(SYS_setgroups, 0, nullptr) != 0 && errno != EPERM) {
        return failure(error_from_errno("cannot leave the supplementary groups"));
    }
    ::umask(0);
    adopted_by = this;
    return {};
}

Result<UniqueFd, Errno> Share::pin(int directory, const Name& name) const {
    open_how how{};
    how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const auto fd =
        static_cast<int>(::syscall(SYS_openat2, directory, name.c_str(), &how, sizeof how));
    if (fd < 0) {
        return failure(int{errno});
    }
    return UniqueFd(fd);
}

Result<UniqueFd, Errno> Share::pin_path(const std::string& path) const {
    open_how how{};
    how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const auto fd =
        static_cast<int>(::syscall(SYS_openat2, root_.get(), path.c_str(), &how, sizeof how));
    if (fd < 0) {
        return failure(int{errno});
    }
    return UniqueFd(fd);
}

Result<UniqueFd, Errno> Share::pin_again(int fd) const {
    UniqueFd pinned = has_open_tree_
                          ? pin_by_tree(fd)
                          : UniqueFd(::openat(proc_.get(), FdName(fd).c_str(), O_PATH | O_CLOEXEC));
    if (!pinned.valid()) {
        return failure(int{errno});
    }
    return pinned;
}

Result<UniqueFd, Errno> Share::reopen(int fd, uint32_t type, int flags) const {
    // Opening anything else would wait (a FIFO), or reach what is not of the share (a device).
    if (type != S_IFREG && type != S_IFDIR) {
        return failure(type == S_IFLNK ? ELOOP : ENXIO);
    }
    const int opened = ::openat(proc_.get(), FdName(fd).c_str(), (flags & ~O_NOFOLLOW) | O_CLOEXEC);
    if (opened < 0) {
        return failure(int{errno});
    }
    return UniqueFd(opened);
}

void NamesBase::enter() {
    // Who may list a directory may not search it for that: then its names fail one by one.
    if (::fchdir(base_) == 0) {
        base_ = AT_FDCWD;
    }
}

NamesBase::~NamesBase() {
    if (base_ == AT_FDCWD) {
        // As adopt_thread() did: it is a directory of our own process.
        OUTRIGGER_ASSERT(::fchdir(share_.proc_fd()) == 0);
    }
}

}  // namespace outrigger::fs
