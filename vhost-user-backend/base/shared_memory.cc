// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/shared_memory.h"

#include <atomic>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace outrigger {
namespace {

Result<UniqueFd> open_anonymous(const char* name) {
#ifdef MFD_ALLOW_SEALING
    UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
#else
    static std::atomic<unsigned> serial = 0;
    const std::string path =
        "/" + std::string(name) + "-" + std::to_string(::getpid()) + "-" + std::to_string(serial++);
    UniqueFd fd(::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    if (fd.valid()) {
        ::shm_unlink(path.c_str());
    }
#endif
    if (!fd.valid()) {
        return failure(error_from_errno("cannot create shared memory"));
    }
    return fd;
}

}  // namespace

Result<UniqueFd> create_shared_memory(const char* name, size_t length) {
    UniqueFd fd = OUTRIGGER_TRY(open_anonymous(name));
    if (::ftruncate(fd.get(), static_cast<off_t>(length)) != 0) {
        return failure(error_from_errno("cannot size shared memory"));
    }
#ifdef F_ADD_SEALS
    if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return failure(error_from_errno("cannot seal shared memory"));
    }
#endif
    return fd;
}

bool is_sealed_against_shrinking([[maybe_unused]] int fd) {
#ifdef F_GET_SEALS
    const int seals = ::fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
#else
    return false;
#endif
}

}  // namespace outrigger
