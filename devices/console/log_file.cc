// SPDX-License-Identifier: Apache-2.0
#include "devices/console/log_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"

#include "devices/console/owned_name.h"

namespace outrigger::console {

Result<LogFile> LogFile::open(LogFileOptions options, std::span<std::byte> kept) {
    UniqueFd directory(
        ::open(directory_of(options.path).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) {
        return failure(error_from_errno("cannot open the directory of " + options.path));
    }
    LogFile file(std::move(options), std::move(directory));
    OUTRIGGER_TRY(file.reopen());
    if (!kept.empty()) {
        file.kept_.emplace(kept);
        if (const auto before = file.kept_->load()) {
            const bool is_same = before->device == file.place_.device &&
                                 before->inode == file.place_.inode && before->bytes <= file.bytes_;
            file.kept_position_ = before->position + (is_same ? file.bytes_ - before->bytes : 0);
        }
    }
    return file;
}

/// Everything before `position` was written, to this file or an earlier one.
void LogFile::note(uint64_t position) {
    if (kept_) {
        place_.position = position;
        place_.bytes = bytes_;
        kept_->store(place_);
    }
}

Result<void> LogFile::reopen() {
    // O_NONBLOCK: a FIFO of that name must not hold us up. It means nothing to a file.
    UniqueFd fd(::openat(directory_.get(),
                         name_in_directory(options_.path).c_str(),
                         O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                         0600));

    struct stat status {};

    if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
        return failure(error_from_errno("cannot open " + options_.path));
    }
    if (!S_ISREG(status.st_mode)) {
        return failure(Error{.message = options_.path + " is no file: a log is written to one"});
    }
    constexpr mode_t kOthers = 077;
    if ((status.st_mode & kOthers) != 0 && ::fchmod(fd.get(), 0600) != 0) {
        return failure(error_from_errno("cannot keep others from reading " + options_.path));
    }
    file_ = std::move(fd);
    bytes_ = static_cast<uint64_t>(status.st_size);
    place_.device = status.st_dev;
    place_.inode = status.st_ino;
    return {};
}

/// The oldest one goes. Names only: whoever follows one of the files goes on with it.
Result<void> LogFile::rotate() {
    const std::string name = name_in_directory(options_.path);
    const auto numbered = [&](uint32_t number) {
        return number == 0 ? name : name + "." + std::to_string(number);
    };
    for (uint32_t number = options_.files; number > 0; --number) {
        if (::renameat(directory_.get(),
                       numbered(number - 1).c_str(),
                       directory_.get(),
                       numbered(number).c_str()) != 0 &&
            errno != ENOENT) {
            return failure(error_from_errno("cannot rotate " + options_.path));
        }
    }
    return reopen();
}

Result<void> LogFile::append(uint64_t position, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        size_t count = bytes.size();
        if (options_.bytes_max > 0) {
            if (bytes_ >= options_.bytes_max) {
                // Too large is better than lost.
                if (const auto rotated = rotate(); !rotated) {
                    limiter_->log(LogLevel::kError, "console: {}", rotated.error().message);
                }
            }
            if (bytes_ < options_.bytes_max) {
                count = static_cast<size_t>(std::min<uint64_t>(count, options_.bytes_max - bytes_));
            }
        }
        note(position);
        const ssize_t written = ::write(file_.get(), bytes.data(), count);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return failure(error_from_errno("cannot write to " + options_.path));
        }
        bytes_ += static_cast<uint64_t>(written);
        position += static_cast<uint64_t>(written);
        note(position);  // the next write may be to another file
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return {};
}

}  // namespace outrigger::console
