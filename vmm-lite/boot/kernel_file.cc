// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/kernel_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {

KernelFile::KernelFile(UniqueFd fd, std::string path, std::string what, uint64_t bytes)
    : fd_(std::move(fd)), path_(std::move(path)), what_(std::move(what)), bytes_(bytes) {}

Result<KernelFile> KernelFile::open(const std::string& path, std::string what) {
    // Without O_NONBLOCK a FIFO would keep us here.
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));

    struct stat status {};

    if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
        return failure(error_from_errno(fmt::format("cannot open {} '{}'", what, path)));
    }
    if (!S_ISREG(status.st_mode)) {
        return failure(Error{.message = fmt::format("{} '{}' is no regular file", what, path)});
    }
    return KernelFile(std::move(fd), path, std::move(what), static_cast<uint64_t>(status.st_size));
}

Result<void> KernelFile::read(uint64_t offset, std::span<std::byte> out) const {
    if (!range_fits<uint64_t>(offset, out.size(), bytes_)) {
        return failure(error("is cut short; copy it again"));
    }
    size_t done = 0;
    while (done < out.size()) {
        const ssize_t got = ::pread(
            fd_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return failure(error_from_errno(fmt::format("cannot read {} '{}'", what_, path_)));
        }
        if (got == 0) {
            return failure(error("became shorter while it was read"));
        }
        done += static_cast<size_t>(got);
    }
    return {};
}

Error KernelFile::error(std::string_view complaint) const {
    return {.message = fmt::format("{} '{}' {}", what_, path_, complaint)};
}

}  // namespace outrigger::vmm
