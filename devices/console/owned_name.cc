// SPDX-License-Identifier: Apache-2.0
#include "devices/console/owned_name.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace outrigger::console {

std::string directory_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

std::string name_in_directory(const std::string& path) {
    const size_t slash = path.rfind('/');
    return path.substr(slash == std::string::npos ? 0 : slash + 1);
}

Result<OwnedName> OwnedName::adopt(const std::string& path) {
    UniqueFd directory(::open(directory_of(path).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    std::string name = name_in_directory(path);

    struct stat status {};

    if (!directory.valid() ||
        ::fstatat(directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
        return failure(error_from_errno("cannot examine " + path));
    }
    return OwnedName(std::move(directory), std::move(name), status.st_dev, status.st_ino);
}

OwnedName::~OwnedName() {
    struct stat status {};

    if (directory_.valid() &&
        ::fstatat(directory_.get(), name_.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        status.st_dev == device_ && status.st_ino == inode_) {
        (void)::unlinkat(directory_.get(), name_.c_str(), 0);
    }
}

}  // namespace outrigger::console
