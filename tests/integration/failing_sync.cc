// SPDX-License-Identifier: Apache-2.0
// Preloaded into a disk's daemon: its next fdatasync() fails when the test says so, once, as the
// kernel tells of lost data once. What the test says is the first byte of a file, mapped before the
// sandbox is closed.
#include <atomic>
#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

unsigned char* fails = nullptr;

__attribute__((constructor)) void map_what_the_test_says() {
    const char* const path = std::getenv("OUTRIGGER_SYNC_FAILS");
    if (path == nullptr) {
        return;
    }
    const int fd = ::open(path, O_RDWR | O_CLOEXEC);
    void* const mapped = ::mmap(nullptr, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (mapped != MAP_FAILED) {
        fails = static_cast<unsigned char*>(mapped);
    }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int fdatasync(int fd) {
    if (fails != nullptr && std::atomic_ref<unsigned char>(*fails).exchange(0) != 0) {
        errno = EIO;
        return -1;
    }
    return static_cast<int>(::syscall(SYS_fdatasync, fd));
}
