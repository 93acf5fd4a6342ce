// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/config_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/daemon/descriptor_store.h"

namespace outrigger {
namespace {

Result<std::string> read_all(int fd, const std::string& what) {
    std::string text;
    std::array<char, 16 * 1024> piece{};
    while (true) {
        const ssize_t count = ::read(fd, piece.data(), piece.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return failure(error_from_errno("cannot read " + what));
        }
        if (count == 0) {
            return text;
        }
        text.append(piece.data(), static_cast<size_t>(count));
        if (text.size() > kConfigBytesMax) {
            return failure(Error{.message = what + " has more than " +
                                            std::to_string(kConfigBytesMax) + " bytes"});
        }
    }
}

Result<std::string> read_file(const std::string& path) {
    // A pipe that nobody writes to would be waited for here, for ever.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));

    struct stat status {};

    if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
        return failure(error_from_errno("cannot open " + path));
    }
    if (!S_ISREG(status.st_mode)) {
        return failure(Error{.message = path + " is no file"});
    }
    return read_all(fd.get(), path);
}

}  // namespace

Result<std::string> read_config(const std::string& path) {
    const char* const number = std::getenv(kConfigVariable);
    if (number == nullptr || std::getenv(DescriptorStore::kChannelVariable) == nullptr) {
        return read_file(path);
    }
    const std::string_view digits = number;
    int fd = -1;
    const auto [rest, error] = std::from_chars(digits.begin(), digits.end(), fd);
    if (error != std::errc() || rest != digits.end() || fd < 0) {
        return failure(Error{.message = std::string("$") + kConfigVariable + " is no descriptor"});
    }
    // Nobody that we start is meant.
    ::unsetenv(kConfigVariable);
    const UniqueFd copy(fd);
    return read_config_copy(copy.get());
}

Result<UniqueFd> copy_config(const std::string& path) {
    const std::string text = OUTRIGGER_TRY(read_file(path));
    // One byte more: there is no memory of no bytes.
    UniqueFd fd = OUTRIGGER_TRY(create_shared_memory("outrigger-config", text.size() + 1));
    size_t written = 0;
    while (written < text.size()) {
        const ssize_t count = ::pwrite(
            fd.get(), text.data() + written, text.size() - written, static_cast<off_t>(written));
        if (count < 0 && errno != EINTR) {
            return failure(error_from_errno("cannot copy " + path));
        }
        written += count > 0 ? static_cast<size_t>(count) : 0;
    }
    return fd;
}

Result<std::string> read_config_copy(int fd) {
    struct stat status {};

    if (::fstat(fd, &status) != 0 || status.st_size < 1 ||
        static_cast<uint64_t>(status.st_size) > kConfigBytesMax + 1) {
        return failure(Error{.message = "what the keeper has read of --config is not there"});
    }
    std::string text(static_cast<size_t>(status.st_size) - 1, '\0');
    size_t done = 0;
    while (done < text.size()) {
        // By its own place: others have the same open file.
        const ssize_t count =
            ::pread(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
        if (count == 0 || (count < 0 && errno != EINTR)) {
            return failure(error_from_errno("cannot read what the keeper has of --config"));
        }
        done += count > 0 ? static_cast<size_t>(count) : 0;
    }
    return text;
}

}  // namespace outrigger
