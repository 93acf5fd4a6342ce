// SPDX-License-Identifier: Apache-2.0
/// The directory that is shared, and the few ways in which its files are reached: by one name below
/// an open directory, and by the descriptor that an inode keeps. No path is ever walked.
#pragma once

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/fs_settings.h"
#include "devices/fs/fuse_request.h"
#include "devices/fs/host_call.h"
#include "devices/fs/inode_table.h"

namespace outrigger::fs {

/// What statx() says, or the errno value with which it failed.
using StatResult = Result<struct statx, Errno>;

[[nodiscard]] InodeKey key_of(const struct statx& status);

/// Any thread; all members are const.
class Share final {
  public:
    /// Opens the directory (or file) and what else is needed, while names can still be opened. As
    /// root the share is a mount of its own, without set-user-id and devices, which no later mount
    /// of the host changes.
    [[nodiscard]] static Result<Share> open(const FsSettings& settings);

    /// The one that an earlier process had opened as `root`. An error: it is not the directory of
    /// that name, or not any more.
    [[nodiscard]] static Result<Share> go_on(const FsSettings& settings, UniqueFd root);

    /// The process is root's, and opens files whatever their modes say.
    [[nodiscard]] bool changes_users() const { return changes_users_; }

    /// Whose files are that the process makes as itself.
    [[nodiscard]] uid_t own_user() const { return own_user_; }

    [[nodiscard]] int root_fd() const { return root_.get(); }

    /// What is mounted below is part of it as well, whatever the host unmounts.
    [[nodiscard]] bool is_own_mount() const { return is_own_mount_; }

    /// The root as an inode keeps it.
    [[nodiscard]] UniqueFd duplicate_root() const;

    /// /proc/self/fd: "12" below it leads to what descriptor 12 has open.
    [[nodiscard]] int proc_fd() const { return proc_.get(); }

    /// Makes the calling thread one that serves requests: its umask is its own and 0, it is in no
    /// supplementary group, and its working directory is proc_fd(), for the calls that take no
    /// directory (getxattr() and friends). Once a thread; an error says that the kernel refused.
    [[nodiscard]] Result<void> adopt_thread() const;

    /// Pins what `name` is in `directory`, whatever it is, without opening it.
    [[nodiscard]] Result<UniqueFd, Errno> pin(int directory, const Name& name) const;

    /// Pins what a path of components below the root leads to, through no symbolic link.
    [[nodiscard]] Result<UniqueFd, Errno> pin_path(const std::string& path) const;

    /// Pins what `fd` has open or pins, once more.
    [[nodiscard]] Result<UniqueFd, Errno> pin_again(int fd) const;

    /// Opens what an O_PATH descriptor pins, a regular file or a directory.
    [[nodiscard]] Result<UniqueFd, Errno> reopen(int fd, uint32_t type, int flags) const;

  private:
    [[nodiscard]] static Result<Share> begin();
    [[nodiscard]] Result<void> check_root(const FsSettings& settings) const;

    UniqueFd root_;
    UniqueFd proc_;
    uid_t own_user_ = 0;
    bool changes_users_ = false;
    bool is_own_mount_ = false;
    bool has_open_tree_ = false;  // no filter around us refuses it
};

/// From where names of one directory are looked up, one behind the other: from its descriptor, and
/// in a long listing from the thread's working directory, of which the kernel takes no reference
/// for each. The thread is one that the share has adopted; what names files below /proc/self/fd by
/// paths alone has to wait until this is gone.
class NamesBase final {
  public:
    NamesBase(const Share& share, int directory) : share_(share), base_(directory) {}

    NamesBase(const NamesBase&) = delete;
    NamesBase& operator=(const NamesBase&) = delete;

    ~NamesBase();

    /// For one name more: a descriptor, or AT_FDCWD.
    [[nodiscard]] int take() {
        if (++names_ == kNamesMin) [[unlikely]] {
            enter();
        }
        return base_;
    }

  private:
    /// Entering and leaving cost as much as ten names gain.
    static constexpr uint32_t kNamesMin = 32;

    void enter();

    const Share& share_;
    int base_;
    uint32_t names_ = 0;
};

/// What is known of all files of a file system by its kind.
struct FileSystemKind {
    /// Reads are copies of memory, although it refuses to promise that.
    bool is_in_memory = false;
    /// Closing one of several descriptors of a file does nothing, and has no error to tell.
    bool ignores_closes = false;
};

/// Of the file system of what `fd` has open or pins.
[[nodiscard]] FileSystemKind kind_of(int fd);

/// Of what `fd` has open or pins.
[[nodiscard]] StatResult stat_fd(int fd, unsigned mask);

/// Of what `name` is in `directory`, a symbolic link itself.
[[nodiscard]] StatResult stat_name(int directory, const char* name, unsigned mask);

/// The same into `status`, which is as it was where that fails: nothing is copied twice.
[[nodiscard]] inline Result<void, Errno> read_status(int directory,
                                                     const char* name,
                                                     unsigned mask,
                                                     struct statx& status) {
    const long result =
        host_call(SYS_statx, directory, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, mask, &status);
    if (result != 0) {
        return failure(static_cast<Errno>(-result));
    }
    return {};
}

/// Of what `fd` pins, likewise.
[[nodiscard]] inline Result<void, Errno> read_pinned_status(int fd,
                                                            unsigned mask,
                                                            struct statx& status) {
    constexpr int kFlags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    const long result = host_call(SYS_statx, fd, "", kFlags, mask, &status);
    if (result != 0) {
        return failure(static_cast<Errno>(-result));
    }
    return {};
}

/// What a guest asks for most of all, of what `fd` has open or pins, by the cheapest call that
/// there is.
[[nodiscard]] inline Result<void, Errno> read_attributes(int fd, struct stat& status) {
#if defined(__LP64__) && defined(SYS_fstat)
    // Not by the C library, which makes a look-up of an empty name of it. What the kernel fills is
    // the C library's structure where a long has 64 bits.
    const long result = host_call(SYS_fstat, fd, &status);
#else
    const long result = ::fstat(fd, &status) == 0 ? 0 : -errno;
#endif
    if (result != 0) {
        return failure(static_cast<Errno>(-result));
    }
    return {};
}

/// The number of a descriptor as a name in /proc/self/fd.
class FdName final {
  public:
    explicit FdName(int fd);

    [[nodiscard]] const char* c_str() const { return begin_; }

  private:
    char text_[12] = {};
    const char* begin_;
};

}  // namespace outrigger::fs
