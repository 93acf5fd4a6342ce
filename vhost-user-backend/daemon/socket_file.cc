// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/socket_file.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/common_options.h"

namespace outrigger {
namespace {

/// How to open a directory for nothing but the names in it, which may be all that we may do there.
#ifdef O_PATH
constexpr int kOnlyToName = O_PATH;
#else
constexpr int kOnlyToName = O_RDONLY;
#endif

/// Plain data, because a signal handler reads it.
struct Slot {
    std::atomic<bool> owned =
        false;  // released after the rest was written, acquired before reading
    // The directory and the name in it: paths of their own are out of reach in a sandbox.
    int directory_fd = -1;
    std::array<char, sizeof(sockaddr_un::sun_path)> name{};
    dev_t device = 0;
    ino_t inode = 0;
};

/// Each device has one for its front end, and some have more; and there is the control socket.
constexpr size_t kSocketFilesMax = 4 * kDevicesMax;

std::array<Slot, kSocketFilesMax> slots;

/// 0, or why the file stays. Async-signal-safe.
int remove_if_ours(Slot& slot) {
    // exchange: whoever comes second, the destructor or the signal handler, finds it done.
    if (!slot.owned.exchange(false, std::memory_order_acq_rel)) {
        return 0;
    }
    int os_error = 0;

    struct stat status {};

    if (::fstatat(slot.directory_fd, slot.name.data(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISSOCK(status.st_mode) && status.st_dev == slot.device && status.st_ino == slot.inode) {
        os_error = ::unlinkat(slot.directory_fd, slot.name.data(), 0) == 0 ? 0 : errno;
    }
    ::close(slot.directory_fd);
    return os_error;
}

}  // namespace

Result<SocketFile> SocketFile::adopt(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    UniqueFd directory_fd(::open(directory.c_str(), kOnlyToName | O_DIRECTORY | O_CLOEXEC));

    struct stat status {};

    if (!directory_fd.valid() ||
        ::fstatat(directory_fd.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
        return failure(error_from_errno("cannot examine the new socket " + path));
    }
    for (size_t i = 0; i < slots.size(); ++i) {
        Slot& slot = slots[i];
        if (!slot.owned.load(std::memory_order_relaxed)) {
            OUTRIGGER_ASSERT(name.size() < slot.name.size());
            std::memcpy(slot.name.data(), name.c_str(), name.size() + 1);
            slot.directory_fd = directory_fd.release();
            slot.device = status.st_dev;
            slot.inode = status.st_ino;
            // Pairs with the exchange in remove_if_ours(), which then sees all of the above.
            slot.owned.store(true, std::memory_order_release);
            return SocketFile(i);
        }
    }
    return failure(Error{.message = "too many listening sockets"});
}

std::optional<SocketFile> SocketFile::adopt_kept(const std::string& path, int file) {
    struct stat made {};

    struct stat there {};

    if (::fstat(file, &made) != 0 || ::lstat(path.c_str(), &there) != 0 ||
        !S_ISSOCK(there.st_mode) || made.st_dev != there.st_dev || made.st_ino != there.st_ino) {
        return std::nullopt;
    }
    auto adopted = adopt(path);
    return adopted ? std::optional(*std::move(adopted)) : std::nullopt;
}

UniqueFd SocketFile::open_file(const std::string& path) {
#ifdef O_PATH
    return UniqueFd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
#else
    return {};
#endif
}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : slot_(std::exchange(other.slot_, std::nullopt)) {}

SocketFile& SocketFile::operator=(SocketFile&& other) noexcept {
    if (this != &other) {
        remove();
        slot_ = std::exchange(other.slot_, std::nullopt);
    }
    return *this;
}

int SocketFile::directory_fd() const {
    return slots[*slot_].directory_fd;
}

bool SocketFile::is_removable() const {
    return ::faccessat(directory_fd(), ".", W_OK | X_OK, 0) == 0;
}

SocketFile::~SocketFile() {
    remove();
}

void SocketFile::remove() {
    if (!slot_) {
        return;
    }
    Slot& slot = slots[*std::exchange(slot_, std::nullopt)];
    if (const int os_error = remove_if_ours(slot); os_error != 0) {
        log(LogLevel::kWarning,
            "{}",
            error_from_code(std::string("cannot remove the socket ") + slot.name.data(), os_error)
                .message);
    }
}

void remove_socket_files() {
    for (Slot& slot : slots) {
        (void)remove_if_ours(slot);
    }
}

}  // namespace outrigger
