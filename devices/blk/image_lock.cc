// SPDX-License-Identifier: Apache-2.0
// QEMU's protocol (its block/file-posix.c): single bytes of the file stand for what a process does
// to the image and for what it bears from others. Each is locked shared, by everybody for whom it
// is so; then everybody looks whether somebody else does what he does not bear, or does not bear
// what he does. The locks belong to the open file (OFD), not to the process.
#include "devices/blk/image_lock.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fmt/format.h>

namespace outrigger::blk {
namespace {

namespace fs = std::filesystem;

/// QEMU's permissions: a byte "I do it" at 100 + n, a byte "nobody else may" at 200 + n.
enum class Permission : uint8_t {
    kConsistentRead = 0,
    kWrite = 1,
    kWriteUnchanged = 2,
    kResize = 3
};
constexpr off_t kDoneBase = 100;
constexpr off_t kRefusedBase = 200;
constexpr off_t kPermissionCount = 4;

constexpr std::array kDoneByReaders{Permission::kConsistentRead};
constexpr std::array kDoneByWriters{Permission::kConsistentRead, Permission::kWrite};
/// Of others: what a guest's file system does not survive. QEMU's tools may read beside a writer.
constexpr std::array kRefused{Permission::kWrite, Permission::kResize};

off_t byte_of(off_t base, Permission permission) {
    return base + static_cast<off_t>(permission);
}

int set_lock(int fd, short type, off_t byte, off_t count) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = count;
    return ::fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno == EACCES ? EAGAIN : errno;
}

struct Found {
    int os_error = 0;
    pid_t pid = -1;  ///< of a lock that belongs to a process; locks of open files have none
};

/// Does somebody else lock that byte?
Found look_at_byte(int fd, off_t byte) {
    struct flock lock = {};
    lock.l_type = F_WRLCK;  // what no other lock goes with
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) {
        return {.os_error = errno};
    }
    return lock.l_type == F_UNLCK ? Found{} : Found{.os_error = EAGAIN, .pid = lock.l_pid};
}

// --- Who has it ----------------------------------------------------------------------------------

std::optional<pid_t> number_of(std::string_view name) {
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    return error == std::errc() && end == name.data() + name.size() ? std::optional(pid)
                                                                    : std::nullopt;
}

/// Does one of the process's open files but `except` hold a lock on the file that /proc calls
/// `identity`? Nothing is known of other users' processes.
bool holds_lock(const fs::path& process, std::string_view identity, std::string_view except = {}) {
    std::error_code error;
    for (fs::directory_iterator entry(process / "fdinfo", error), end; !error && entry != end;
         entry.increment(error)) {
        if (entry->path().filename().native() == except) {
            continue;
        }
        std::ifstream info(entry->path());
        for (std::string line; std::getline(info, line);) {
            if (line.starts_with("lock:") && line.find(identity) != std::string::npos) {
                return true;
            }
        }
    }
    return false;
}

std::string describe_process(pid_t pid) {
    std::ifstream file(fmt::format("/proc/{}/comm", pid));
    std::string name;
    std::getline(file, name);
    return name.empty() ? fmt::format("process {}", pid)
                        : fmt::format("process {} ({})", pid, name);
}

/// Locks of open files name no process, so /proc is searched for who has such a file open.
std::string find_holder(int fd, pid_t pid) {
    if (pid > 0) {
        return describe_process(pid);
    }
    struct stat status = {};
    if (::fstat(fd, &status) != 0) {
        return {};
    }
    const std::string identity = fmt::format(
        " {:02x}:{:02x}:{} ", major(status.st_dev), minor(status.st_dev), status.st_ino);
    if (holds_lock("/proc/self", identity, std::to_string(fd))) {
        return "another disk of this process";
    }
    std::error_code error;
    for (fs::directory_iterator entry("/proc", error), end; !error && entry != end;
         entry.increment(error)) {
        const std::optional<pid_t> other = number_of(entry->path().filename().native());
        if (other && *other != ::getpid() && holds_lock(entry->path(), identity)) {
            return describe_process(*other);
        }
    }
    return {};
}

ImageLockOutcome refusal(int fd, const Found& found) {
    return {.os_error = found.os_error,
            .holder = found.os_error == EAGAIN ? find_holder(fd, found.pid) : std::string()};
}

}  // namespace

ImageLockOutcome lock_image_file(int fd, bool read_only) {
    const std::span<const Permission> done =
        read_only ? std::span<const Permission>(kDoneByReaders) : kDoneByWriters;
    // First all locks, then the looks: of two who come at the same time at least one sees the
    // other.
    for (const auto& [permissions, base] :
         {std::pair(done, kDoneBase),
          std::pair(std::span<const Permission>(kRefused), kRefusedBase)}) {
        for (const Permission permission : permissions) {
            if (const int os_error = set_lock(fd, F_RDLCK, byte_of(base, permission), 1);
                os_error != 0) {
                return refusal(fd, {.os_error = os_error});
            }
        }
    }
    for (const Permission permission : done) {
        if (const Found found = look_at_byte(fd, byte_of(kRefusedBase, permission));
            found.os_error != 0) {
            return refusal(fd, found);
        }
    }
    for (const Permission permission : kRefused) {
        if (const Found found = look_at_byte(fd, byte_of(kDoneBase, permission));
            found.os_error != 0) {
            return refusal(fd, found);
        }
    }
    return {};
}

void unlock_image_file(int fd) {
    (void)set_lock(fd, F_UNLCK, kDoneBase, kPermissionCount);
    (void)set_lock(fd, F_UNLCK, kRefusedBase, kPermissionCount);
}

}  // namespace outrigger::blk
