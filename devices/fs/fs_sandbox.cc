// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_sandbox.h"

#include <cerrno>

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
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
    {.name = "mkdirat"},
    {.name = "mknodat"},
    {.name = "symlinkat"},
    {.name = "readlinkat"},
    {.name = "linkat", .tests = {argument_is(4, AT_SYMLINK_FOLLOW)}},
    {.name = "unlinkat"},
    {.name = "renameat2"},
    // Attributes.
    {.name = "statx"},
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
    {.name = "preadv2"},
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

/// What is mounted at `path`, and below, neither spreads nor is spread to. False: `path` is no
/// mount.
bool make_private(const char* path) {
    return ::mount(nullptr, path, nullptr, MS_PRIVATE | MS_REC, nullptr) == 0;
}

/// The working directory becomes the root, and the old root goes; but a process that begins in a
/// chroot has no mount to exchange, and then only leaves its root behind. It has no descriptor of
/// that and loses the right to change its root.
bool enter_root() {
    if (::syscall(SYS_pivot_root, ".", ".") == 0) {
        return ::umount2(".", MNT_DETACH) == 0;
    }
    return errno == EINVAL && ::chroot(".") == 0;
}

}  // namespace

SandboxNeeds fs_sandbox_needs() {
    return {.system_calls = kSystemCalls, .control_system_calls = kControlSystemCalls};
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

Result<void> isolate_process() {
    // The sanitizers look at /proc when they report.
    if (::geteuid() != 0 || kSanitized) {
        return {};
    }
    if (::setgroups(0, nullptr) != 0) {
        return failure(error_from_errno("cannot leave the supplementary groups"));
    }
    if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) != 0) {
        log(LogLevel::kWarning,
            "sandbox: {}: only names, rights and Landlock hold the process to the share",
            error_from_errno("no namespaces of its own").message);
        return {};
    }
    // In a chroot "/" is no mount, and then it is enough that nothing spreads from "/proc".
    if ((!make_private("/") && !make_private("/proc")) ||
        ::mount("none",
                "/proc",
                "tmpfs",
                MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                "mode=0555,size=4k") != 0) {
        log(LogLevel::kWarning,
            "sandbox: {}: only names, rights and Landlock hold the process to the share",
            error_from_errno("no root directory of its own").message);
        return {};
    }
    if (::chdir("/proc") != 0 || !enter_root() || ::chdir("/") != 0) {
        return failure(error_from_errno("cannot make the root directory an empty one"));
    }
    return {};
}

}  // namespace outrigger::fs
