// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/seccomp_policy.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger {
namespace {

/// What a thread is made of, as pthread_create() asks for it. The rest may differ by C library.
constexpr uint64_t kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
constexpr uint64_t kThreadFlagsThatMayDiffer =
    CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | CLONE_DETACHED;

constexpr SystemCallRule kEveryThread[] = {
    // Descriptors that are open: rings' notifications, wake-ups, log lines.
    {.name = "read"},
    {.name = "readv"},
    {.name = "preadv2"},  // without a wait, whatever the flags of the file
    {.name = "write"},
    {.name = "writev"},
    {.name = "pwritev2"},
    {.name = "vmsplice", .tests = {argument_is(3, SPLICE_F_NONBLOCK)}},  // pipes, likewise
    {.name = "close"},
    // Device states (session/state_channel.h): what waits is a thread of its own. To nobody but the
    // peer of a connected socket.
    {.name = "poll"},
    {.name = "ppoll"},
    {.name = "recvfrom", .tests = {argument_is(3, MSG_DONTWAIT)}},
    {.name = "sendto",
     .tests = {argument_is(3, MSG_DONTWAIT | MSG_NOSIGNAL),
               ArgumentTest{.index = 4, .mask = ~uint64_t{0}, .value = 0}}},
    // A descriptor cannot become another one, nor send signals.
    {.name = "fcntl", .tests = {argument_is(1, F_GETFD)}},
    {.name = "fcntl", .tests = {argument_is(1, F_SETFD)}},
    {.name = "fcntl", .tests = {argument_is(1, F_GETFL)}},
    {.name = "fcntl", .tests = {argument_is(1, F_SETFL)}},
    // Memory: malloc, stacks, buffers. Nothing that is written can be executed.
    {.name = "brk"},
    {.name = "mmap", .tests = {argument_lacks(2, PROT_EXEC)}},
    {.name = "mmap2", .tests = {argument_lacks(2, PROT_EXEC)}},
    {.name = "mprotect", .tests = {argument_lacks(2, PROT_EXEC)}},
    {.name = "mremap"},
    {.name = "munmap"},
    {.name = "madvise", .tests = {argument_is(2, MADV_DONTNEED)}},
    {.name = "madvise", .tests = {argument_is(2, MADV_FREE)}},
    {.name = "madvise", .tests = {argument_is(2, MADV_DONTDUMP)}},
    {.name = "madvise", .tests = {argument_is(2, MADV_HUGEPAGE)}},
    {.name = "madvise", .tests = {argument_is(2, MADV_NOHUGEPAGE)}},
    {.name = "madvise", .tests = {argument_is(2, MADV_POPULATE_READ)}},  // platform::page_state()
    // Locks, time, and a thread's own life.
    {.name = "futex"},
    {.name = "sched_yield"},
    {.name = "sched_getaffinity"},
    {.name = "clock_gettime"},
    {.name = "clock_nanosleep"},
    {.name = "nanosleep"},
    {.name = "gettimeofday"},
    {.name = "restart_syscall"},
    {.name = "set_robust_list"},
    {.name = "rseq"},
    {.name = "prctl", .tests = {argument_is(0, PR_SET_NAME)}},
    {.name = "getpid"},
    {.name = "gettid"},
    {.name = "exit"},
    {.name = "exit_group"},
    // Signals: the SIGBUS guard, and abort() when we find a bug. tgkill: at the end of policy_of().
    {.name = "rt_sigaction"},
    {.name = "rt_sigprocmask"},
    {.name = "rt_sigreturn"},
    {.name = "sigaltstack"},
    // The C library tries and does without: /etc/localtime, /sys/devices/system/cpu/online.
    {.name = "open", .error = EACCES},
    {.name = "openat", .error = EACCES},
    {.name = "openat2", .error = EACCES},
    {.name = "clone3", .error = ENOSYS},  // its flags are out of a filter's sight; clone() follows
};

/// Threads that wait in an event loop: control and workers.
constexpr SystemCallRule kLoops[] = {
    {.name = "epoll_ctl"},
    {.name = "epoll_wait"},
    {.name = "epoll_pwait"},
    {.name = "timerfd_settime"},
    {.name = "ioctl", .tests = {argument_is(1, FIONBIO)}},  // how Asio makes non-blocking
};

constexpr SystemCallRule kControl[] = {
    // Front ends.
    {.name = "accept4"},
    {.name = "accept"},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PEERCRED)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_TYPE)}},
    {.name = "getpeername"},
    {.name = "recvmsg"},
    {.name = "sendmsg"},
    {.name = "shutdown", .tests = {argument_is(1, SHUT_WR)}},  // a client of the metrics
    // A keeper: messages stay in the socket until they are written down, and the socket says
    // whether one was taken; an answer is noted as it is sent, in a page that stays in memory. What
    // systemd has under one name it does not take under another.
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PEEK_OFF)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PEEK_OFF)}},
    {.name = "sendmmsg"},
    {.name = "mlock"},
    {.name = "kcmp", .tests = {argument_is(2, KCMP_FILE)}},
    // What they send: memory files and notifications are examined.
    {.name = "fstat"},
    {.name = "fstat64"},
    {.name = "fstatfs"},
    {.name = "fstatfs64"},
    {.name = "newfstatat"},  // also the socket file at the end; it shows no contents
    {.name = "fstatat64"},
    {.name = "statx"},
    {.name = "fcntl", .tests = {argument_is(1, F_GET_SEALS)}},
    {.name = "fcntl", .tests = {argument_is(1, F_DUPFD_CLOEXEC)}},
    // In-flight buffers that we make for them.
    {.name = "memfd_create"},
    {.name = "ftruncate"},
    {.name = "fcntl", .tests = {argument_is(1, F_ADD_SEALS)}},
    // The end; for unlinkat see kRemoval.
    {.name = "timer_settime"},
    {.name = "setitimer"},
};

/// Landlock holds it to the folders of our sockets.
constexpr SystemCallRule kRemoval[] = {{.name = "unlinkat", .tests = {argument_is(2, 0)}}};

/// Without Landlock it would reach every file of our user: the socket file stays behind, and the
/// next start replaces it.
constexpr SystemCallRule kNoRemoval[] = {{.name = "unlinkat", .error = EACCES}};

/// In-flight buffers of a build without memfd have a name for a moment: shm_open() makes it new or
/// not at all, and Landlock holds it to the folder of shared memory.
constexpr SystemCallRule kNamedMemory[] = {
    {.name = "openat"},
    {.name = "unlink"},
};

/// The ring itself is restricted to the operations that loop and device submit. Without one the
/// only rings would be those that a front end passes.
constexpr SystemCallRule kRing[] = {
    {.name = "io_uring_enter"},
    // Files that are open already, into a table that the ring has.
    {.name = "io_uring_register", .tests = {argument_is(1, IORING_REGISTER_FILES_UPDATE)}},
};

constexpr SystemCallRule kWorker[] = {
    // The helper threads of the device, and the narrower filter that each of them enters.
    {.name = "clone",
     .tests = {ArgumentTest{
         .index = 0, .mask = ~kThreadFlagsThatMayDiffer, .value = kThreadFlags}}},
    {.name = "seccomp", .tests = {argument_is(0, SECCOMP_SET_MODE_FILTER), argument_is(1, 0)}},
};

/// What the run-time libraries of the sanitizers do while they watch, and when they report.
constexpr SystemCallRule kSanitizers[] = {
    {.name = "open", .tests = {argument_lacks(1, O_ACCMODE | O_CREAT | O_TRUNC)}},
    {.name = "openat", .tests = {argument_lacks(2, O_ACCMODE | O_CREAT | O_TRUNC)}},
    {.name = "readlink"},
    {.name = "readlinkat"},
    {.name = "stat"},
    {.name = "lstat"},
    {.name = "fstat"},
    {.name = "newfstatat"},
    {.name = "access"},
    {.name = "lseek"},
    {.name = "pread64"},
    {.name = "getdents"},
    {.name = "getdents64"},
    {.name = "ioctl", .tests = {argument_is(1, TCGETS)}},
    {.name = "madvise"},
    {.name = "getrlimit"},
    {.name = "prlimit64"},
    {.name = "getppid"},
    {.name = "getuid"},
    {.name = "uname"},
    {.name = "prctl"},
    // Is memory there? A write of it to a pipe tells.
    {.name = "pipe"},
    {.name = "pipe2"},
    // The leak checker looks at the process from a process of its own.
    {.name = "clone"},
    {.name = "ptrace"},
    {.name = "wait4"},
    {.name = "tgkill"},
    {.name = "kill"},
};

template <size_t kCount>
void append(std::vector<SystemCallRule>& policy, const SystemCallRule (&rules)[kCount]) {
    policy.insert(policy.end(), rules, rules + kCount);
}

}  // namespace

std::vector<SystemCallRule> policy_of(ThreadRole role,
                                      const SandboxNeeds& needs,
                                      const RoleConditions& conditions) {
    std::vector<SystemCallRule> policy;
    append(policy, kEveryThread);
    switch (role) {
        case ThreadRole::kControl:
            append(policy, kLoops);
            append(policy, kControl);
            append(policy, conditions.names_are_held ? kRemoval : kNoRemoval);
            if (kPortableBuild && conditions.names_are_held) {
                append(policy, kNamedMemory);
            }
            break;
        case ThreadRole::kWorker:
            append(policy, kLoops);
            append(policy, kWorker);
            if (conditions.has_ring) {
                append(policy, kRing);
            }
            break;
        case ThreadRole::kHelper:
            break;
    }
    const auto of_device =
        role == ThreadRole::kControl ? needs.control_system_calls : needs.system_calls;
    for (const SystemCallRule& rule : of_device) {
        if (!rule.by_name || conditions.names_are_held) {
            policy.push_back(rule);
        }
    }
    if (kSanitized) {
        append(policy, kSanitizers);
    }
    // abort() signals its own thread; nothing here signals another process.
    policy.push_back(
        {.name = "tgkill", .tests = {argument_is(0, static_cast<uint32_t>(::getpid()))}});
    return policy;
}

}  // namespace outrigger
