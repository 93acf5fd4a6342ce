// SPDX-License-Identifier: Apache-2.0
// What BSD and macOS have too, or nothing. Compiled on Linux by Meson's option `portable`, so that
// it is tested; the few #ifdefs ask for what only some of the other systems have.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::platform {
namespace {

bool set_close_on_exec(int fd) {
    return ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

bool set_nonblocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

/// `fd` if `prepared`, else none, with errno as it was.
UniqueFd if_prepared(UniqueFd fd, bool prepared) {
    if (fd.valid() && !prepared) {
        const int os_error = errno;
        fd.reset();
        errno = os_error;
    }
    return fd;
}

/// Where sendmsg() has no flag for it, the socket itself must be told. The daemon ignores SIGPIPE
/// besides.
void forbid_sigpipe([[maybe_unused]] int socket) {
#ifdef SO_NOSIGPIPE
    const int on = 1;
    (void)::setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
}

UniqueFd refuse_as_missing() {
    errno = ENOSYS;
    return {};
}

}  // namespace

Result<PipeEnds> open_pipe() {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) {
        return failure(error_from_errno("cannot create a pipe"));
    }
    PipeEnds pipe{.read_end = UniqueFd(ends[0]), .write_end = UniqueFd(ends[1])};
    if (!set_close_on_exec(ends[0]) || !set_close_on_exec(ends[1])) {
        return failure(error_from_errno("cannot prepare a pipe"));
    }
    return pipe;
}

UniqueFd open_eventfd() {
    return refuse_as_missing();
}

ssize_t read_now(int /*fd*/, std::span<std::byte> /*out*/) {
    errno = ENOTSUP;
    return -1;
}

ssize_t write_now(int /*fd*/, std::span<const std::byte> /*bytes*/) {
    errno = ENOTSUP;
    return -1;
}

UniqueFd open_unix_socket(int type) {
    UniqueFd fd(::socket(AF_UNIX, type, 0));
    if (!fd.valid()) {
        return fd;
    }
    forbid_sigpipe(fd.get());
    const bool prepared = set_close_on_exec(fd.get());
    return if_prepared(std::move(fd), prepared);
}

UniqueFd accept_connection(int listener) {
    UniqueFd fd(::accept(listener, nullptr, nullptr));
    if (!fd.valid()) {
        return fd;
    }
    forbid_sigpipe(fd.get());
    const bool prepared = set_close_on_exec(fd.get()) && set_nonblocking(fd.get());
    return if_prepared(std::move(fd), prepared);
}

bool is_same_open_file(int, int) {
    return false;
}

bool start_peeking(int, size_t) {
    errno = ENOSYS;
    return false;
}

size_t peeked_bytes(int) {
    return 0;
}

ssize_t receive_message(int socket, msghdr& message, bool peek) {
    const ssize_t count = ::recvmsg(socket, &message, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
    if (count < 0) {
        return count;
    }
    // A program started by another thread between here and the call above would inherit them:
    // nothing in a daemon starts programs.
    for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
         control = CMSG_NXTHDR(&message, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t fds = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < fds; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof fd);
            (void)set_close_on_exec(fd);
        }
    }
    return count;
}

ssize_t send_message(int socket, const msghdr& message) {
#ifdef MSG_NOSIGNAL
    return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
#else
    return ::sendmsg(socket, &message, MSG_DONTWAIT);
#endif
}

ssize_t send_noted_message(int socket, NotedMessage& noted) {
    const ssize_t count = send_message(socket, noted.message);
    noted.moved = count > 0 ? static_cast<unsigned>(count) : 0;
    return count;
}

ssize_t receive_noted_message(int socket, NotedMessage& noted, int flags) {
    const ssize_t count = ::recvmsg(socket, &noted.message, flags | MSG_DONTWAIT);
    noted.moved = count > 0 ? static_cast<unsigned>(count) : 0;
    return count;
}

bool name_socket(int /*socket*/) {
    return false;  // a name would be a file
}

std::string describe_peer([[maybe_unused]] int connection) {
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
    uid_t user = 0;
    gid_t group = 0;
    if (::getpeereid(connection, &user, &group) == 0) {
        return "uid " + std::to_string(user);
    }
#endif
    return "unknown peer";
}

std::optional<uid_t> peer_user([[maybe_unused]] int connection) {
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
    uid_t user = 0;
    gid_t group = 0;
    if (::getpeereid(connection, &user, &group) == 0) {
        return user;
    }
#elif defined(SO_PEERCRED)
    // The portable side on Linux, which has neither of the calls above.
    struct {
        pid_t process;
        uid_t user;
        gid_t group;
    } peer{};

    socklen_t size = sizeof peer;
    if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
        return peer.user;
    }
#endif
    return std::nullopt;
}

UniqueFd open_memfd(const char* /*name*/) {
    return refuse_as_missing();
}

Result<void> seal_size(int /*memfd*/) {
    return failure(error_from_code("cannot seal shared memory", ENOSYS));
}

bool is_sealed_against_shrinking(int /*fd*/) {
    return false;
}

uint64_t page_bytes_of(int fd) {
    const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    // The preferred block is the huge page on hugetlbfs, should a peer on Linux pass such a file.
    // Elsewhere it may be larger than a page too, and a mapping that is aligned to it works as
    // well.
    constexpr uint64_t kLargest = uint64_t{16} << 30;

    struct stat status {};

    if (::fstat(fd, &status) != 0) {
        return page;
    }
    const auto block = static_cast<uint64_t>(status.st_blksize);
    return is_power_of_two(block) && block <= kLargest ? std::max(page, block) : page;
}

void keep_out_of_core_files(std::span<std::byte> /*mapping*/) {}

/// What madvise() does to the contents differs by system; fresh pages in place of the old do not.
bool drop_pages(std::span<std::byte> pages) {
    return ::mmap(pages.data(),
                  pages.size(),
                  PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                  -1,
                  0) == pages.data();
}

void set_huge_pages(std::span<std::byte> /*pages*/, bool /*allowed*/) {}

void lock_pages(std::span<std::byte> pages) {
    (void)::mlock(pages.data(), pages.size());
}

PageState page_state(void* /*page*/) {
    return PageState::kUnknown;
}

void* map_again([[maybe_unused]] void* source, [[maybe_unused]] size_t length) {
    errno = ENOTSUP;
    return nullptr;
}

bool move_mapping([[maybe_unused]] void* mapping,
                  [[maybe_unused]] size_t length,
                  [[maybe_unused]] void* at) {
    errno = ENOTSUP;
    return false;
}

void name_this_thread([[maybe_unused]] const std::string& name) {
    // Nobody's standard; two spellings reach most systems.
    [[maybe_unused]] constexpr size_t kNameMax = 15;
#if defined(__APPLE__)
    (void)::pthread_setname_np(name.substr(0, kNameMax).c_str());
#elif defined(__linux__) || defined(__FreeBSD__)
    (void)::pthread_setname_np(::pthread_self(), name.substr(0, kNameMax).c_str());
#endif
}

bool kernel_counts_ticks() {
    return false;
}

Result<void> pin_this_thread(unsigned processor) {
    return failure(Error{.message = "cannot run a thread on processor " +
                                    std::to_string(processor) +
                                    ": this build has no way to choose processors",
                         .os_error = ENOTSUP});
}

Result<void> prepare_alarm() {
    return {};
}

void start_alarm(std::chrono::milliseconds delay) {
    // POSIX does not list setitimer() for signal handlers; here and on every BSD it is a system
    // call and nothing else.
    const itimerval once{.it_interval = {},
                         .it_value = {.tv_sec = 0,
                                      .tv_usec = static_cast<suseconds_t>(
                                          std::chrono::microseconds(delay).count())}};
    (void)::setitimer(ITIMER_REAL, &once, nullptr);
}

Result<size_t> read_kernel_entropy(std::span<std::byte> out) {
    constexpr size_t kCallBytesMax = 256;  // getentropy() refuses more
    size_t filled = 0;
    while (filled < out.size()) {
        const auto part = out.subspan(filled, std::min(out.size() - filled, kCallBytesMax));
        if (::getentropy(part.data(), part.size()) != 0) {
            return failure(error_from_errno("getentropy"));
        }
        filled += part.size();
    }
    return filled;
}

}  // namespace outrigger::platform
