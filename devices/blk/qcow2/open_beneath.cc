// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/open_beneath.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>

#include <fmt/format.h>

namespace outrigger::blk {
namespace {

namespace fs = std::filesystem;

#ifdef O_PATH
/// Enough to go on from, also where the directory may not be listed.
constexpr int kDirectory = O_PATH | O_DIRECTORY | O_CLOEXEC;
#else
constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
#endif

Error open_error(const fs::path& path, int os_error) {
    return error_from_code(fmt::format("cannot open {}", path.string()), os_error);
}

}  // namespace

Result<UniqueFd> open_directory(const fs::path& path) {
    UniqueFd fd(::open(path.c_str(), kDirectory));
    if (!fd.valid()) {
        return failure(open_error(path, errno));
    }
    return fd;
}

Result<UniqueFd> open_beneath(int directory, const fs::path& relative) {
    UniqueFd opened;
    int from = directory;
    // Each turn takes a name of the path.
    for (auto name = relative.begin(); name != relative.end(); ++name) {
        if (name->is_absolute() || name->empty() || *name == "..") {
            return failure(open_error(relative, EINVAL));
        }
        const bool is_last = std::next(name) == relative.end();
        const int flags = is_last ? O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC : kDirectory;
        UniqueFd next(::openat(from, name->c_str(), flags | O_NOFOLLOW));
        if (!next.valid()) {
            return failure(open_error(relative, errno));
        }
        opened = std::move(next);
        from = opened.get();
    }
    if (!opened.valid()) {
        return failure(open_error(relative, EINVAL));
    }
    return opened;
}

}  // namespace outrigger::blk
