// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <string>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::platform {
namespace {

timer_t alarm_timer{};

}  // namespace

Result<PipeEnds> open_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return failure(error_from_errno("cannot create a pipe"));
    }
    return PipeEnds{.read_end = UniqueFd(ends[0]), .write_end = UniqueFd(ends[1])};
}

UniqueFd open_eventfd() {
    return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

namespace {

/// For pipes and FIFOs that do not know RWF_NOWAIT: all before Linux 6.4, and what open() gave.
/// Reads or writes, as the descriptor is open; a socket or file is EBADF.
ssize_t splice_now(int fd, const iovec& part) {
    const ssize_t count = ::vmsplice(fd, &part, 1, SPLICE_F_NONBLOCK);
    if (count < 0 && errno == EBADF) {
        errno = ENOTSUP;
    }
    return count;
}

}  // namespace

ssize_t read_now(int fd, std::span<std::byte> out) {
    const iovec part{.iov_base = out.data(), .iov_len = out.size()};
    const ssize_t count = ::preadv2(fd, &part, 1, -1, RWF_NOWAIT);
    return count < 0 && errno == ENOTSUP ? splice_now(fd, part) : count;
}

ssize_t write_now(int fd, std::span<const std::byte> bytes) {
    // SAFETY: the system call takes readable and writable buffers by one type; it only reads.
    const iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
    const ssize_t count = ::pwritev2(fd, &part, 1, -1, RWF_NOWAIT);
    return count < 0 && errno == ENOTSUP ? splice_now(fd, part) : count;
}

UniqueFd open_unix_socket(int type) {
    return UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
}

UniqueFd accept_connection(int listener) {
    return UniqueFd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

ssize_t receive_message(int socket, msghdr& message, bool peek) {
    return ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
}

bool is_same_open_file(int one, int other) {
    const pid_t self = ::getpid();
    return ::syscall(SYS_kcmp, self, self, KCMP_FILE, one, other) == 0;
}

bool start_peeking(int socket, size_t peeked) {
    const int offset = static_cast<int>(peeked);
    return ::setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0;
}

size_t peeked_bytes(int socket) {
    int offset = 0;
    socklen_t bytes = sizeof offset;
    const bool known = ::getsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &offset, &bytes) == 0;
    return known && offset > 0 ? static_cast<size_t>(offset) : 0;
}

ssize_t send_message(int socket, const msghdr& message) {
    return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

namespace {

mmsghdr* as_kernel_has_it(NotedMessage& noted) {
    static_assert(sizeof(NotedMessage) == sizeof(mmsghdr));
    static_assert(offsetof(NotedMessage, moved) == offsetof(mmsghdr, msg_len));
    // SAFETY: the same members in the same places, and the C library's declaration is all that
    // knows mmsghdr: the kernel reads and writes bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return reinterpret_cast<mmsghdr*>(&noted);
}

/// What the kernel wrote there: others who have the memory may have changed it since.
ssize_t bytes_moved(NotedMessage& noted) {
    // Relaxed: one read of what a system call of this thread wrote.
    const size_t moved = std::atomic_ref(noted.moved).load(std::memory_order_relaxed);
    size_t room = 0;
    for (size_t i = 0; i < noted.message.msg_iovlen; ++i) {
        room += noted.message.msg_iov[i].iov_len;
    }
    return static_cast<ssize_t>(std::min(moved, room));
}

}  // namespace

ssize_t send_noted_message(int socket, NotedMessage& noted) {
    // Between sending and writing msg_len the kernel looks at no signal.
    const int count = ::sendmmsg(socket, as_kernel_has_it(noted), 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    return count < 0 ? -1 : bytes_moved(noted);
}

ssize_t receive_noted_message(int socket, NotedMessage& noted, int flags) {
    const int count = ::recvmmsg(socket, as_kernel_has_it(noted), 1, flags | MSG_DONTWAIT, nullptr);
    return count < 0 ? -1 : bytes_moved(noted);
}

bool name_socket(int socket) {
    // An address that ends behind the family: the kernel chooses an abstract name that nobody has.
    // A socket that has a name keeps it. Also right for one that is connected (unix(7),
    // "autobind").
    const sockaddr family{.sa_family = AF_UNIX, .sa_data = {}};
    return ::bind(socket, &family, sizeof family.sa_family) == 0;
}

std::string describe_peer(int connection) {
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return "unknown peer";
    }
    return "pid " + std::to_string(peer.pid) + ", uid " + std::to_string(peer.uid);
}

std::optional<uid_t> peer_user(int connection) {
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return std::nullopt;
    }
    return peer.uid;
}

UniqueFd open_memfd(const char* name) {
    return UniqueFd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
}

Result<void> seal_size(int memfd) {
    if (::fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return failure(error_from_errno("cannot seal shared memory"));
    }
    return {};
}

bool is_sealed_against_shrinking(int fd) {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

uint64_t page_bytes_of(int fd) {
    struct statfs file_system {};

    if (::fstatfs(fd, &file_system) == 0 && file_system.f_type == HUGETLBFS_MAGIC) {
        return static_cast<uint64_t>(file_system.f_bsize);
    }
    return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void keep_out_of_core_files(std::span<std::byte> mapping) {
    ::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
}

bool drop_pages(std::span<std::byte> pages) {
    return ::madvise(pages.data(), pages.size(), MADV_DONTNEED) == 0;
}

void set_huge_pages(std::span<std::byte> pages, bool allowed) {
    ::madvise(pages.data(), pages.size(), allowed ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

void lock_pages(std::span<std::byte> pages) {
    (void)::mlock(pages.data(), pages.size());
}

PageState page_state(void* page) {
#ifdef MADV_POPULATE_READ
    const auto bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    if (::madvise(page, bytes, MADV_POPULATE_READ) == 0) {
        return PageState::kThere;
    }
    if (errno == EFAULT) {
        return PageState::kLost;
    }
#endif
    return PageState::kUnknown;  // before Linux 5.14
}

void* map_again(void* source, size_t length) {
    // An old size of 0 makes another mapping of the same shared pages (mremap(2)).
    void* const copy = ::mremap(source, 0, length, MREMAP_MAYMOVE);
    return copy == MAP_FAILED ? nullptr : copy;
}

bool move_mapping(void* mapping, size_t length, void* at) {
    return ::mremap(mapping, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at;
}

void name_this_thread(const std::string& name) {
    constexpr size_t kNameMax = 15;  // the kernel refuses longer ones
    (void)::pthread_setname_np(::pthread_self(), name.substr(0, kNameMax).c_str());
}

bool kernel_counts_ticks() {
#if defined(__x86_64__)
    static const bool counts = [] {
        std::ifstream file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        std::string source;
        return file >> source && source == "tsc";
    }();
    return counts;
#else
    return false;
#endif
}

Result<void> pin_this_thread(unsigned processor) {
    cpu_set_t processors;
    CPU_ZERO(&processors);
    if (processor < CPU_SETSIZE) {
        CPU_SET(processor, &processors);
    }
    const int error = ::pthread_setaffinity_np(::pthread_self(), sizeof processors, &processors);
    if (error != 0) {
        return failure(error_from_code(
            "cannot run a thread on processor " + std::to_string(processor), error));
    }
    return {};
}

Result<void> prepare_alarm() {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGALRM;
    if (::timer_create(CLOCK_MONOTONIC, &event, &alarm_timer) != 0) {
        return failure(error_from_errno("cannot create a timer"));
    }
    return {};
}

void start_alarm(std::chrono::milliseconds delay) {
    const itimerspec once{
        .it_interval = {},
        .it_value = {.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds(delay).count()}};
    ::timer_settime(alarm_timer, 0, &once, nullptr);
}

Result<size_t> read_kernel_entropy(std::span<std::byte> out) {
    const ssize_t count = ::getrandom(out.data(), out.size(), GRND_NONBLOCK);
    if (count >= 0) {
        return static_cast<size_t>(count);
    }
    // EAGAIN: early after the host's boot, its generator is not seeded yet.
    if (errno == EAGAIN || errno == EINTR) {
        return size_t{0};
    }
    return failure(error_from_errno("getrandom"));
}

}  // namespace outrigger::platform
