// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/shared_memory.h"

#include <atomic>
#include <cerrno>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

/// POSIX shared memory that has lost its name by the time anybody gets it. shm_open() sets
/// close-on-exec itself.
UniqueFd open_unlinked_object(const char* name) {
    // A process that died between the two calls may have left the name to one of the same number.
    constexpr int kAttempts = 100;
    static std::atomic<unsigned> serial = 0;
    UniqueFd fd;
    for (int i = 0; i < kAttempts && !fd.valid(); ++i) {
        std::string path("/");
        path.append(name).append("-").append(std::to_string(::getpid()));
        path.append("-").append(std::to_string(serial++));
        fd.reset(::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
        if (fd.valid()) {
            ::shm_unlink(path.c_str());
        } else if (errno != EEXIST) {
            break;
        }
    }
    return fd;
}

Result<void> set_length(int fd, size_t length) {
    if (::ftruncate(fd, static_cast<off_t>(length)) != 0) {
        return failure(error_from_errno("cannot size shared memory"));
    }
    return {};
}

}  // namespace

Result<UniqueFd> create_shared_memory(const char* name, size_t length, SharedMemoryKind kind) {
    if (kind == SharedMemoryKind::kDefault) {
        UniqueFd memfd = platform::open_memfd(name);
        if (memfd.valid()) {
            OUTRIGGER_TRY(set_length(memfd.get(), length));
            OUTRIGGER_TRY(platform::seal_size(memfd.get()));
            return memfd;
        }
        if (errno != ENOSYS) {
            return failure(error_from_errno("cannot create shared memory"));
        }
    }
    UniqueFd object = open_unlinked_object(name);
    if (!object.valid()) {
        return failure(error_from_errno("cannot create shared memory"));
    }
    OUTRIGGER_TRY(set_length(object.get(), length));
    return object;
}

}  // namespace outrigger
