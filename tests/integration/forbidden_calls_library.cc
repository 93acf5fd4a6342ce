// SPDX-License-Identifier: Apache-2.0
// Loaded into a daemon by forbidden_calls_test (LD_PRELOAD): it tries, on threads of the daemon,
// what the sandbox is there to refuse, and writes what came of it to stderr, a line each:
//
//     FORBIDDEN THREAD NAME refused by the filter
//     FORBIDDEN THREAD NAME error NUMBER
//     FORBIDDEN THREAD NAME works
//
// A thread tries when it gets try_signal(). With the value 0 that is all of kCalls, under
// --sandbox=log, whose SIGSYS we take in place of the daemon; with another one the call of that
// number, from 1. Before the first thread is started, where capabilities, namespaces and Landlock
// are in place and no filter is yet, the main thread tries kNamed.
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/integration/forbidden_calls.h"

namespace {

using outrigger::testing::try_signal;

thread_local volatile bool is_trying = false;
thread_local volatile bool was_trapped = false;

int real_sigaction(int number, const struct sigaction* action, struct sigaction* before) {
    using Function = int (*)(int, const struct sigaction*, struct sigaction*);
    // SAFETY: the C library's function of that name has that type.
    static const auto function = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "sigaction"));
    return function(number, action, before);
}

class Line final {
  public:
    void append(std::string_view text) {
        const size_t count = std::min(text.size(), bytes_.size() - length_);
        std::memcpy(bytes_.data() + length_, text.data(), count);
        length_ += count;
    }

    void append(long number) {
        std::array<char, 24> digits{};
        const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
        append({digits.data(), static_cast<size_t>(end - digits.data())});
    }

    void write_out() const { (void)!::write(STDERR_FILENO, bytes_.data(), length_); }

  private:
    std::array<char, 160> bytes_{};
    size_t length_ = 0;
};

struct Attempt {
    std::string_view name;
    long (*make)();
};

int old_root = -1;
pid_t parent = 0;

long open_at(int directory, const char* path, int flags) {
    return ::syscall(SYS_openat, directory, path, flags | O_CLOEXEC, 0600);
}

long talk_to(int family, int type) {
    return ::syscall(SYS_socket, family, type | SOCK_CLOEXEC, 0);
}

long make_process() {
    const long child = ::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) {
        ::_exit(0);
    }
    return child;
}

long run_program() {
    const char* const arguments[] = {"/bin/true", nullptr};
    return ::syscall(SYS_execve, arguments[0], arguments, arguments + 1);
}

long map_code() {
    return ::syscall(
        SYS_mmap, nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

long make_code_of_data() {
    alignas(4096) static char page[4096];
    return ::syscall(SYS_mprotect, page, sizeof page, PROT_READ | PROT_WRITE | PROT_EXEC);
}

long read_parent() {
    char byte = 0;
    const iovec to{.iov_base = &byte, .iov_len = 1};
    const iovec from{.iov_base = &byte, .iov_len = 1};
    return ::syscall(SYS_process_vm_readv, parent, &to, 1, &from, 1, 0);
}

long make_map() {
    std::array<char, 128> attributes{};
    return ::syscall(SYS_bpf, BPF_MAP_CREATE, attributes.data(), attributes.size());
}

long count_events() {
    std::array<char, 128> attributes{};
    return ::syscall(SYS_perf_event_open, attributes.data(), 0, -1, -1, 0);
}

long make_ring() {
    std::array<char, 256> parameters{};
    return ::syscall(SYS_io_uring_setup, 2, parameters.data());
}

/// Where only a file system stands between: what cannot work here, for whatever reason, is refused
/// by the filter all the same.
constexpr std::array kCalls = {
    Attempt{"open /etc/shadow", [] { return open_at(AT_FDCWD, "/etc/shadow", O_RDONLY); }},
    Attempt{"open /etc/shadow of the old root",
            [] { return open_at(old_root, "etc/shadow", O_RDONLY); }},
    Attempt{"socket AF_INET", [] { return talk_to(AF_INET, SOCK_STREAM); }},
    Attempt{"socket AF_NETLINK", [] { return talk_to(AF_NETLINK, SOCK_RAW); }},
    Attempt{"socket AF_PACKET", [] { return talk_to(AF_PACKET, SOCK_RAW); }},
    Attempt{"ptrace", [] { return ::syscall(SYS_ptrace, PTRACE_ATTACH, parent, 0, 0); }},
    Attempt{"process_vm_readv", read_parent},
    Attempt{"pidfd_open", [] { return ::syscall(SYS_pidfd_open, parent, 0); }},
    Attempt{"execve", run_program},
    Attempt{"fork", make_process},
    Attempt{"clone3", [] { return ::syscall(SYS_clone3, nullptr, size_t{0}); }},
    Attempt{"kill", [] { return ::syscall(SYS_kill, parent, 0); }},
    Attempt{"tgkill", [] { return ::syscall(SYS_tgkill, parent, parent, 0); }},
    Attempt{"mount", [] { return ::syscall(SYS_mount, "none", "/", "tmpfs", 0, nullptr); }},
    Attempt{"umount2", [] { return ::syscall(SYS_umount2, "/", MNT_DETACH); }},
    Attempt{"pivot_root", [] { return ::syscall(SYS_pivot_root, ".", "."); }},
    Attempt{"chroot", [] { return ::syscall(SYS_chroot, "."); }},
    Attempt{"setns", [] { return ::syscall(SYS_setns, -1, 0); }},
    Attempt{"unshare a user namespace", [] { return ::syscall(SYS_unshare, CLONE_NEWUSER); }},
    Attempt{"bpf", make_map},
    Attempt{"perf_event_open", count_events},
    Attempt{"keyctl", [] { return ::syscall(SYS_keyctl, 0, 0, 0, 0, 0); }},
    Attempt{"add_key", [] { return ::syscall(SYS_add_key, "user", "x", "x", 1, -3); }},
    Attempt{"init_module", [] { return ::syscall(SYS_init_module, nullptr, 0, ""); }},
    Attempt{"finit_module", [] { return ::syscall(SYS_finit_module, -1, "", 0); }},
    Attempt{"kexec_load", [] { return ::syscall(SYS_kexec_load, 0, 0, nullptr, 0); }},
    Attempt{"reboot", [] { return ::syscall(SYS_reboot, 0, 0, 0, nullptr); }},
    Attempt{"io_uring_setup", make_ring},
    Attempt{"userfaultfd of the kernel's faults", [] { return ::syscall(SYS_userfaultfd, 0); }},
    Attempt{"mmap of code", map_code},
    Attempt{"mprotect to code", make_code_of_data},
    Attempt{"setresuid", [] { return ::syscall(SYS_setresuid, 0, 0, 0); }},
    Attempt{"sethostname", [] { return ::syscall(SYS_sethostname, "x", 1); }},
    Attempt{"prctl dumpable", [] { return ::syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }},
    Attempt{"syslog", [] { return ::syscall(SYS_syslog, 3, nullptr, 0); }},
    Attempt{"ioctl TIOCSTI", [] { return ::syscall(SYS_ioctl, 0, 0x5412, "x"); }},
};

long connect_inet() {
    const long fd = talk_to(AF_INET, SOCK_STREAM);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(outrigger::testing::open_port());
    const long result = fd < 0 ? fd : ::syscall(SYS_connect, fd, &address, sizeof address);
    const int error = errno;
    ::close(static_cast<int>(fd));
    errno = error;
    return result;
}

/// Nobody listens there: refused otherwise than by ECONNREFUSED it is by Landlock or the network.
constexpr std::array kNamed = {
    Attempt{"open /etc/passwd", [] { return open_at(AT_FDCWD, "/etc/passwd", O_RDONLY); }},
    Attempt{"open /etc/passwd of the old root",
            [] { return open_at(old_root, "etc/passwd", O_RDONLY); }},
    Attempt{"list the old root", [] { return open_at(old_root, ".", O_RDONLY | O_DIRECTORY); }},
    Attempt{"make a file in the old root",
            [] { return open_at(old_root, "tmp/forbidden", O_WRONLY | O_CREAT); }},
    Attempt{"write to /dev/null of the old root",
            [] { return open_at(old_root, "dev/null", O_WRONLY); }},
    Attempt{"make a directory in the old root",
            [] { return ::syscall(SYS_mkdirat, old_root, "tmp/forbidden", 0700); }},
    Attempt{"make a link in the old root",
            [] { return ::syscall(SYS_symlinkat, "x", old_root, "tmp/forbidden"); }},
    Attempt{"connect by TCP", connect_inet},
    Attempt{"execve", run_program},
    Attempt{"mount", [] { return ::syscall(SYS_mount, "none", "/", "tmpfs", 0, nullptr); }},
    Attempt{"chroot", [] { return ::syscall(SYS_chroot, "."); }},
    Attempt{"sethostname", [] { return ::syscall(SYS_sethostname, "x", 1); }},
    Attempt{"ptrace", [] { return ::syscall(SYS_ptrace, PTRACE_ATTACH, parent, 0, 0); }},
};

void attempt(std::string_view thread, const Attempt& call) {
    Line line;
    line.append("FORBIDDEN ");
    line.append(thread);
    line.append(" ");
    line.append(call.name);
    was_trapped = false;
    is_trying = true;
    errno = 0;
    const long result = call.make();
    const int error = errno;
    is_trying = false;
    if (was_trapped) {
        line.append(" refused by the filter\n");
    } else if (result == -1) {
        line.append(" error ");
        line.append(error);
        line.append("\n");
    } else {
        line.append(" works\n");
    }
    line.write_out();
}

void on_try(int, siginfo_t* info, void*) {
    const int error = errno;
    std::array<char, 24> digits{};
    const long thread = ::syscall(SYS_gettid);
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), thread).ptr;
    const std::string_view name(digits.data(), static_cast<size_t>(end - digits.data()));
    const auto number = static_cast<size_t>(info->si_value.sival_int);
    if (number > 0) {
        attempt(name, kCalls[(number - 1) % kCalls.size()]);
    } else {
        for (const Attempt& call : kCalls) {
            attempt(name, call);
        }
        attempt(name, {"end", [] { return -1L; }});
    }
    errno = error;
}

/// In place of the daemon's own: it would end the process at the first call.
void on_refused(int, siginfo_t* info, void* context) {
    if (!is_trying) {
        Line line;
        line.append("FORBIDDEN 0 the daemon's own system call ");
        line.append(info->si_syscall);
        line.append(" works\n");
        line.write_out();
        ::_exit(1);
    }
    was_trapped = true;
    auto* const state = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
    state->uc_mcontext.gregs[REG_RAX] = -EPERM;
#elif defined(__aarch64__)
    state->uc_mcontext.regs[0] = static_cast<unsigned long>(-EPERM);
#else
#error "where does a system call's result lie here?"
#endif
}

__attribute__((constructor)) void prepare() {
    old_root = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    parent = ::getppid();

    struct sigaction action {};

    action.sa_sigaction = on_try;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    real_sigaction(try_signal(), &action, nullptr);
    action.sa_sigaction = on_refused;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    real_sigaction(SIGSYS, &action, nullptr);
}

}  // namespace

// The daemon calls these.

extern "C" __attribute__((visibility("default"))) int sigaction(int number,
                                                                const struct sigaction* action,
                                                                struct sigaction* before) noexcept {
    return number == SIGSYS ? 0 : real_sigaction(number, action, before);
}

/// Ours stays open to every thread.
extern "C" __attribute__((visibility("default"))) int pthread_sigmask(int how,
                                                                      const sigset_t* set,
                                                                      sigset_t* before) noexcept {
    using Function = int (*)(int, const sigset_t*, sigset_t*);
    // SAFETY: the C library's function of that name has that type.
    static const auto function = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "pthread_sigmask"));
    sigset_t with{};
    if (set != nullptr) {
        with = *set;
        if (how != SIG_UNBLOCK) {
            sigdelset(&with, try_signal());
            sigdelset(&with, SIGSYS);
        }
    }
    return function(how, set != nullptr ? &with : nullptr, before);
}

extern "C" __attribute__((visibility("default"))) int pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
    using Function = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    // SAFETY: the C library's function of that name has that type.
    static const auto function = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "pthread_create"));
    static bool is_first = true;
    if (is_first) {
        is_first = false;
        for (const Attempt& call : kNamed) {
            attempt("unfiltered", call);
        }
        attempt("unfiltered", {"end", [] { return -1L; }});
    }
    return function(thread, attributes, start, argument);
}
