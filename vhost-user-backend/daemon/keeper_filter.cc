// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/keeper_filter.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <sched.h>
#include <sys/mount.h>

#include "vhost-user-backend/daemon/seccomp_filter.h"

namespace outrigger {
namespace {

constexpr const char* kForbidden[] = {
    // Other processes: their memory, their descriptors, their execution.
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "perf_event_open",
    // The kernel itself.
    "bpf",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "syslog",
    "iopl",
    "ioperm",
    "modify_ldt",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "quotactl_fd",
    // Keys.
    "add_key",
    "request_key",
    "keyctl",
    // What is mounted where, and other namespaces. For what the program takes namespaces of its own
    // by see kFlagsInUse: its own filters forbid that later.
    "move_mount",
    "open_tree",
    "mount_setattr",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "setns",
    "open_by_handle_at",
    "fanotify_init",
    // The clock and the name of the host, and who we are.
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "setfsuid",
    "setfsgid",
    // Old interfaces that only attacks still call.
    "uselib",
    "ustat",
    "sysfs",
    "vhangup",
    "lookup_dcookie",
    "nfsservctl",
};

/// That a new process could be in, by the flags of clone().
constexpr uint64_t kNamespaces[] = {CLONE_NEWCGROUP,
                                    CLONE_NEWIPC,
                                    CLONE_NEWNET,
                                    CLONE_NEWNS,
                                    CLONE_NEWPID,
                                    CLONE_NEWUSER,
                                    CLONE_NEWUTS};

#ifdef __s390x__
constexpr uint8_t kFlagsOfClone = 1;
#else
constexpr uint8_t kFlagsOfClone = 0;
#endif

/// A call may have no other flags than those, and must have one of some.
struct FlagsInUse {
    const char* call;
    uint8_t index;  ///< of the argument
    uint64_t allowed;
    uint64_t needed;
};

/// See namespaces.cc. CLONE_FS is of threads that go where others do not.
constexpr FlagsInUse kFlagsInUse[] = {
    {.call = "unshare",
     .index = 0,
     .allowed = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWUSER | CLONE_FS,
     .needed = CLONE_NEWNS | CLONE_FS},
    {.call = "mount",
     .index = 3,
     .allowed =
         MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_REMOUNT | MS_BIND | MS_REC | MS_SLAVE,
     .needed = MS_NOSUID | MS_BIND | MS_SLAVE},
    {.call = "umount2", .index = 1, .allowed = MNT_DETACH, .needed = MNT_DETACH},
};

void add_denials_by_flags(std::vector<SystemCallRule>& rules) {
    for (const FlagsInUse& each : kFlagsInUse) {
        for (uint64_t flag = 1; flag <= 1U << 31U; flag <<= 1U) {
            if ((each.allowed & flag) == 0) {
                rules.push_back(
                    {.name = each.call,
                     .tests = {ArgumentTest{.index = each.index, .mask = flag, .value = flag}},
                     .error = EPERM});
            }
        }
        rules.push_back({.name = each.call,
                         .tests = {argument_lacks(each.index, each.needed)},
                         .error = EPERM});
    }
    // Without MS_BIND it is the file system that is changed, for all who have it mounted.
    rules.push_back(
        {.name = "mount",
         .tests = {ArgumentTest{.index = 3, .mask = MS_REMOUNT | MS_BIND, .value = MS_REMOUNT}},
         .error = EPERM});
    for (const uint64_t each : kNamespaces) {
        if (each != CLONE_NEWNS) {
            rules.push_back(
                {.name = "unshare",
                 .tests = {ArgumentTest{.index = 0, .mask = each | CLONE_NEWNS, .value = each}},
                 .error = EPERM});
        }
    }
}

std::vector<SystemCallRule> denials(std::span<const std::string_view> needed) {
    std::vector<SystemCallRule> rules;
    for (const char* const name : kForbidden) {
        if (std::ranges::find(needed, std::string_view(name)) == needed.end()) {
            rules.push_back({.name = name, .error = EPERM});
        }
    }
    for (const uint64_t each : kNamespaces) {
        rules.push_back(
            {.name = "clone",
             .tests = {ArgumentTest{.index = kFlagsOfClone, .mask = each, .value = each}},
             .error = EPERM});
    }
    add_denials_by_flags(rules);
    // What it is to do lies in memory, where no filter looks. The C library takes clone() then.
    rules.push_back({.name = "clone3", .error = ENOSYS});
    return rules;
}

}  // namespace

Result<void> enter_keeper_filter(std::span<const std::string_view> needed) {
    const SeccompFilter filter = OUTRIGGER_TRY(SeccompFilter::compile_denials(denials(needed)));
    const int error = filter.enter();
    return error == 0 ? Result<void>{}
                      : failure(error_from_code("cannot enter a system call filter", error));
}

}  // namespace outrigger
