// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_sandbox.h"

#include <cerrno>

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger::fs {
namespace {

constexpr uint64_t kWholeRegister = ~uint64_t{0};

/// What handlers call, on workers and on the threads that may wait. A name is one component, and
/// Landlock holds all of these to the share.
constexpr SystemCallRule kSystemCalls[] = {
    // A thread's beginning (Share::adopt_thread()).
    {.name = "unshare", .tests = {argument_is(0, CLONE_FS)}},
    {.name = "fchdir"},
    {.name = "umask"},
    {.name = "capget"},
    {.name = "capset"},
    // For whom files are made; never the user of the process as a whole.
    {.name = "setfsuid"},
    {.name = "setfsgid"},
    {.name = "setgroups"},
    // Names.
    {.name = "openat"},
    {.name = "openat2"},
    {.name = "open_tree", .tests = {argument_is(2, AT_EMPTY_PATH | OPEN_TREE_CLOEXEC)}},
    {.name = "mkdirat"},
    {.name = "mknodat"},
    {.name = "symlinkat"},
    {.name = "readlinkat"},
    {.name = "linkat", .tests = {argument_is(4, AT_SYMLINK_FOLLOW)}},
    {.name = "unlinkat"},
    {.name = "renameat2"},
    // Attributes.
    {.name = "statx"},
    {.name = "fstat"},
    {.name = "fstatfs"},
    {.name = "faccessat2"},
    {.name = "fchmodat"},
    {.name = "fchownat", .tests = {argument_is(4, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)}},
    {.name = "utimensat", .tests = {argument_is(3, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)}},
    {.name = "truncate"},
    {.name = "ftruncate"},
    {.name = "setxattr"},
    {.name = "getxattr"},
    {.name = "listxattr"},
    {.name = "removexattr"},
    // Open files.
    {.name = "fcntl", .tests = {argument_is(1, F_DUPFD_CLOEXEC)}},
    {.name = "fcntl", .tests = {argument_is(1, F_OFD_GETLK)}},
    {.name = "fcntl", .tests = {argument_is(1, F_OFD_SETLK)}},
    {.name = "flock"},
    {.name = "getdents64"},
    {.name = "lseek"},
    {.name = "pread64"},
    {.name = "preadv2"},
    {.name = "pwrite64"},
    {.name = "pwritev2"},
    {.name = "fsync"},
    {.name = "fdatasync"},
    {.name = "syncfs"},
    {.name = "fallocate"},
    {.name = "copy_file_range",
     .tests = {ArgumentTest{.index = 5, .mask = kWholeRegister, .value = 0}}},
    {.name = "ioctl", .tests = {argument_is(1, static_cast<uint32_t>(FS_IOC_GETFLAGS))}},
    {.name = "ioctl", .tests = {argument_is(1, static_cast<uint32_t>(FS_IOC_SETFLAGS))}},
    {.name = "ioctl", .tests = {argument_is(1, static_cast<uint32_t>(FS_IOC_FSGETXATTR))}},
    {.name = "ioctl", .tests = {argument_is(1, static_cast<uint32_t>(FS_IOC_FSSETXATTR))}},
};

/// Of a keeper, and then of handles; without CAP_DAC_READ_SEARCH the last one opens nothing.
constexpr SystemCallRule kExtraSystemCalls[] = {
    {.name = "sendmsg"},
    {.name = "name_to_handle_at", .tests = {argument_is(4, AT_EMPTY_PATH)}},
    {.name = "open_by_handle_at", .tests = {argument_is(2, O_PATH | O_NOFOLLOW | O_CLOEXEC)}},
};

/// Saving and loading what the guest knows (fs_migration.cc); Landlock holds these, too.
constexpr SystemCallRule kControlSystemCalls[] = {
    {.name = "name_to_handle_at", .tests = {argument_is(4, AT_EMPTY_PATH)}},
    {.name = "open_by_handle_at", .tests = {argument_is(2, O_PATH | O_NOFOLLOW | O_CLOEXEC)}},
    {.name = "readlinkat"},
    {.name = "openat2"},
    {.name = "openat"},
    {.name = "getdents64"},
    {.name = "lseek"},
    {.name = "flock"},
    // Locks end with the guest, whatever the keeper still has open.
    {.name = "fcntl", .tests = {argument_is(1, F_OFD_SETLK)}},
};

constexpr uint64_t bit(int capability) {
    return uint64_t{1} << capability;
}

/// FsQueue::submit_read().
constexpr uint8_t kUringOperations[] = {IORING_OP_READ, IORING_OP_READV};

}  // namespace

SandboxNeeds fs_sandbox_needs() {
    return {.system_calls = kSystemCalls,
            .control_system_calls = kControlSystemCalls,
            .uring_operations = kUringOperations};
}

std::span<const SystemCallRule> fs_extra_system_calls(bool opens_by_handle, bool is_kept) {
    const std::span all(kExtraSystemCalls);
    return all.subspan(is_kept ? 0 : 1, (is_kept ? 1 : 0) + (opens_by_handle ? all.size() - 1 : 0));
}

uint64_t fs_capabilities(bool opens_by_handle) {
    return (opens_by_handle ? bit(CAP_DAC_READ_SEARCH) : 0) | bit(CAP_CHOWN) |
           bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER) | bit(CAP_FSETID) | bit(CAP_SETGID) |
           bit(CAP_SETUID) | bit(CAP_MKNOD) | bit(CAP_SETFCAP);
}

Result<void> leave_groups() {
    if (::geteuid() == 0 && !kSanitized && ::setgroups(0, nullptr) != 0) {
        return failure(error_from_errno("cannot leave the supplementary groups"));
    }
    return {};
}

}  // namespace outrigger::fs
