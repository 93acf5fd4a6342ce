// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/descriptors.h"

#include <cstdio>
#include <string>

#include <dirent.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kMemfdBytes = 4096;

}  // namespace

FdSet::FdSet() {
    const auto set = [this](FdKind kind, int fd) {
        OUTRIGGER_ASSERT(fd >= 0);
        fds_[static_cast<size_t>(kind)].reset(fd);
    };
    set(FdKind::kEventfd, ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    int pipe_ends[2];
    OUTRIGGER_ASSERT(::pipe2(pipe_ends, O_CLOEXEC) == 0);
    set(FdKind::kPipeRead, pipe_ends[0]);
    set(FdKind::kPipeWrite, pipe_ends[1]);
    set(FdKind::kMemfd, ::memfd_create("outrigger-fuzz-fd", MFD_CLOEXEC));
    OUTRIGGER_ASSERT(::ftruncate(get(FdKind::kMemfd), kMemfdBytes) == 0);
    set(FdKind::kDirectory, ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    set(FdKind::kZero, ::open("/dev/zero", O_RDWR | O_CLOEXEC));
    set(FdKind::kNull, ::open("/dev/null", O_RDWR | O_CLOEXEC));
    int socket_ends[2];
    OUTRIGGER_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socket_ends) == 0);
    set(FdKind::kSocket, socket_ends[0]);
    ::close(socket_ends[1]);
    set(FdKind::kEpoll, ::epoll_create1(EPOLL_CLOEXEC));
    set(FdKind::kFile, ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    const std::string again = "/proc/self/fd/" + std::to_string(get(FdKind::kMemfd));
    set(FdKind::kReadOnlyMemfd, ::open(again.c_str(), O_RDONLY | O_CLOEXEC));
    set(FdKind::kPathOnly, ::open("/", O_PATH | O_CLOEXEC));
}

bool FdSet::contains(int fd) const {
    struct stat found = {};
    OUTRIGGER_ASSERT(::fstat(fd, &found) == 0);
    for (const UniqueFd& own : fds_) {
        struct stat known = {};
        OUTRIGGER_ASSERT(::fstat(own.get(), &known) == 0);
        if (known.st_dev == found.st_dev && known.st_ino == found.st_ino) {
            return true;
        }
    }
    return false;
}

size_t count_open_descriptors() {
    DIR* const folder = ::opendir("/proc/self/fd");
    OUTRIGGER_ASSERT(folder != nullptr);
    size_t count = 0;
    while (::readdir(folder) != nullptr) {
        ++count;
    }
    ::closedir(folder);
    return count - 3;  // ".", ".." and the folder itself
}

}  // namespace outrigger::fuzz
