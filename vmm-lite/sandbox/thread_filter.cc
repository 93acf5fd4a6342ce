// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/sandbox/thread_filter.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/kvm/counted_requests.h"

namespace outrigger::vmm {
namespace {

/// Holds when (argument & mask) == value. A mask of 0 always holds.
struct ArgumentTest {
    unsigned index = 0;
    uint64_t mask = 0;
    uint64_t value = 0;
};

constexpr ArgumentTest is(unsigned index, uint32_t value) {
    return {.index = index, .mask = 0xffff'ffff, .value = value};
}

constexpr ArgumentTest lacks(unsigned index, uint64_t forbidden) {
    return {.index = index, .mask = forbidden, .value = 0};
}

struct Rule {
    const char* name = "";
    ArgumentTest test{};
    uint16_t error = 0;  ///< not 0: the call is not made, and fails with this
};

constexpr Rule kEveryThread[] = {
    // Descriptors that are open: wake-ups, interrupts, log lines.
    {.name = "read"},
    {.name = "readv"},
    {.name = "preadv2"},
    {.name = "write"},
    {.name = "writev"},
    {.name = "pwritev2"},
    {.name = "close"},
    {.name = "eventfd2"},
    {.name = "fcntl", .test = is(1, F_DUPFD_CLOEXEC)},
    {.name = "fcntl", .test = is(1, F_GETFD)},
    {.name = "fcntl", .test = is(1, F_SETFD)},
    {.name = "fcntl", .test = is(1, F_GETFL)},
    {.name = "fcntl", .test = is(1, F_SETFL)},
    {.name = "poll"},
    {.name = "ppoll"},
    // A task for the loop begins its wait anew.
    {.name = "epoll_ctl"},
    {.name = "timerfd_settime"},
    // Memory. Nothing that is written can be executed.
    {.name = "brk"},
    {.name = "mmap", .test = lacks(2, PROT_EXEC)},
    {.name = "mprotect", .test = lacks(2, PROT_EXEC)},
    {.name = "mremap"},
    {.name = "munmap"},
    {.name = "madvise"},
    // Locks, time, and a thread's own life.
    {.name = "futex"},
    {.name = "sched_yield"},
    {.name = "clock_gettime"},
    {.name = "clock_nanosleep"},
    {.name = "nanosleep"},
    {.name = "gettimeofday"},
    {.name = "restart_syscall"},
    {.name = "set_robust_list"},
    {.name = "rseq"},
    {.name = "getpid"},
    {.name = "gettid"},
    {.name = "exit"},
    {.name = "exit_group"},
    // Signals: processors are stopped by one. abort() when we find a bug.
    {.name = "rt_sigaction"},
    {.name = "rt_sigprocmask"},
    {.name = "rt_sigreturn"},
    {.name = "sigaltstack"},
    // What the guest's accesses ask of KVM: interrupts and doorbells, where a BAR goes.
    {.name = "ioctl", .test = is(1, KVM_IRQFD)},
    {.name = "ioctl", .test = is(1, KVM_IOEVENTFD)},
    {.name = "ioctl", .test = is(1, kSetGsiRouting)},
    {.name = "ioctl", .test = is(1, KVM_SIGNAL_MSI)},
    {.name = "ioctl", .test = is(1, KVM_IRQ_LINE)},
    {.name = "ioctl", .test = is(1, KVM_SET_USER_MEMORY_REGION)},
    // The first line of the log asks whether a terminal shows it.
    {.name = "ioctl", .test = is(1, TCGETS)},
    // The C library tries and does without: /etc/localtime.
    {.name = "open", .error = EACCES},
    {.name = "openat", .error = EACCES},
    {.name = "clone3", .error = ENOSYS},
};

constexpr Rule kVcpu[] = {
    {.name = "ioctl", .test = is(1, KVM_RUN)},
    {.name = "ioctl", .test = is(1, KVM_KVMCLOCK_CTRL)},
    {.name = "newfstatat", .error = EACCES},  // /etc/localtime
};

constexpr Rule kLoop[] = {
    {.name = "epoll_wait"},
    {.name = "epoll_pwait"},
    {.name = "epoll_create1"},
    {.name = "timerfd_create"},
    {.name = "ioctl", .test = is(1, FIONBIO)},
    // Back ends: sockets of this machine alone, and what they send.
    {.name = "socket", .test = is(0, AF_UNIX)},
    {.name = "socketpair", .test = is(0, AF_UNIX)},
    {.name = "connect"},
    {.name = "recvmsg"},
    {.name = "sendmsg"},
    {.name = "recvfrom"},
    {.name = "shutdown"},
    {.name = "pipe2"},
    {.name = "fstat"},
    {.name = "newfstatat"},  // how the C library does it; it shows no contents
    {.name = "statx"},       // of files behind shared memory
    {.name = "pread64"},
    {.name = "fcntl", .test = is(1, F_GET_SEALS)},
    // Operators.
    {.name = "accept4"},
    {.name = "getsockopt"},
    {.name = "getuid"},
    {.name = "geteuid"},
    // The end: of the socket's name, of processors, of the daemons that were started, and of who
    // guards the terminal.
    {.name = "unlink"},
    {.name = "wait4"},
    // Whether a guest that restarts has shut down before.
    {.name = "ioctl", .test = is(1, kGetMsrs)},
    {.name = "ioctl", .test = is(1, KVM_GET_CLOCK)},
};

struct ReleaseContext {
    void operator()(void* context) const { ::seccomp_release(context); }
};

using Context = std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, ReleaseContext>;

Result<void> check(int result, const std::string& doing) {
    if (result < 0) {
        return failure(error_from_code("cannot " + doing, -result));
    }
    return {};
}

Result<void> add(scmp_filter_ctx context, const Rule& rule) {
    const int number = ::seccomp_syscall_resolve_name(rule.name);
    if (number < 0) {
        return {};  // not on this architecture
    }
    const scmp_arg_cmp test{.arg = rule.test.index,
                            .op = SCMP_CMP_MASKED_EQ,
                            .datum_a = rule.test.mask,
                            .datum_b = rule.test.value};
    const uint32_t action = rule.error == 0 ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(rule.error);
    const int result =
        ::seccomp_rule_add_array(context, action, number, rule.test.mask != 0 ? 1U : 0U, &test);
    // The same rule twice is one rule.
    return result == -EEXIST ? Result<void>{}
                             : check(result, std::string("add a rule for ") + rule.name);
}

/// What names a process may name this one alone: signals to threads, and copies from and to memory
/// whose file may end.
Result<void> add_own_process(scmp_filter_ctx context) {
    const scmp_arg_cmp own{.arg = 0,
                           .op = SCMP_CMP_MASKED_EQ,
                           .datum_a = 0xffff'ffff,
                           .datum_b = static_cast<uint64_t>(::getpid())};
    for (const int number :
         {SCMP_SYS(tgkill), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev)}) {
        OUTRIGGER_TRY(check(::seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, &own),
                            "add a rule for this process"));
    }
    return {};
}

Result<std::vector<sock_filter>> compile(std::span<const Rule> own_rules) {
    const Context context(::seccomp_init(SCMP_ACT_KILL_PROCESS));
    if (context == nullptr) {
        return failure(Error{.message = "cannot begin a system call filter"});
    }
    OUTRIGGER_TRY(
        check(::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
              "prepare a system call filter"));
    OUTRIGGER_TRY(check(::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2),
                        "prepare a system call filter"));
    for (const std::span<const Rule> rules : {std::span<const Rule>(kEveryThread), own_rules}) {
        for (const Rule& rule : rules) {
            OUTRIGGER_TRY(add(context.get(), rule));
        }
    }
    OUTRIGGER_TRY(add_own_process(context.get()));
    const UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
    if (!file.valid()) {
        return failure(error_from_errno("cannot create a file for a system call filter"));
    }
    OUTRIGGER_TRY(
        check(::seccomp_export_bpf(context.get(), file.get()), "compile a system call filter"));

    struct stat status {};

    if (::fstat(file.get(), &status) != 0) {
        return failure(error_from_errno("cannot measure a system call filter"));
    }
    std::vector<sock_filter> program(static_cast<size_t>(status.st_size) / sizeof(sock_filter));
    const size_t bytes = program.size() * sizeof(sock_filter);
    if (::pread(file.get(), program.data(), bytes, 0) != static_cast<ssize_t>(bytes)) {
        return failure(error_from_errno("cannot read a system call filter"));
    }
    return program;
}

}  // namespace

Result<ThreadFilter> ThreadFilter::for_vcpu() {
    return ThreadFilter(OUTRIGGER_TRY(compile(kVcpu)));
}

Result<ThreadFilter> ThreadFilter::for_loop() {
    return ThreadFilter(OUTRIGGER_TRY(compile(kLoop)));
}

Result<void> ThreadFilter::enter() const {
    if (!kFiltersBind) {
        return {};
    }
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return failure(error_from_errno("cannot give privileges up"));
    }
    const sock_fprog program{.len = static_cast<unsigned short>(program_.size()),
                             // The kernel only reads it; the interface has no const.
                             .filter = const_cast<sock_filter*>(program_.data())};
    if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
        return failure(error_from_errno("cannot enter a system call filter"));
    }
    return {};
}

}  // namespace outrigger::vmm
