// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/socket_file.h"

#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/daemon/common_options.h"

namespace outrigger {
namespace {

/// Plain data, because a signal handler reads it.
struct Slot {
    std::atomic<bool> owned =
        false;  // released after the rest was written, acquired before reading
    std::array<char, sizeof(sockaddr_un::sun_path)> path{};
    dev_t device = 0;
    ino_t inode = 0;
};

std::array<Slot, kDevicesMax> slots;

void remove_if_ours(Slot& slot) {
    // exchange: whoever comes second, the destructor or the signal handler, finds it done.
    if (!slot.owned.exchange(false, std::memory_order_acq_rel)) {
        return;
    }

    struct stat status {};

    if (::lstat(slot.path.data(), &status) == 0 && S_ISSOCK(status.st_mode) &&
        status.st_dev == slot.device && status.st_ino == slot.inode) {
        ::unlink(slot.path.data());
    }
}

}  // namespace

Result<SocketFile> SocketFile::adopt(const std::string& path) {
    struct stat status {};

    if (::lstat(path.c_str(), &status) != 0) {
        return failure(error_from_errno("cannot examine the new socket " + path));
    }
    for (size_t i = 0; i < slots.size(); ++i) {
        Slot& slot = slots[i];
        if (!slot.owned.load(std::memory_order_relaxed)) {
            OUTRIGGER_ASSERT(path.size() < slot.path.size());
            std::memcpy(slot.path.data(), path.c_str(), path.size() + 1);
            slot.device = status.st_dev;
            slot.inode = status.st_ino;
            // Pairs with the exchange in remove_if_ours(), which then sees all of the above.
            slot.owned.store(true, std::memory_order_release);
            return SocketFile(i);
        }
    }
    return failure(Error{.message = "too many listening sockets"});
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

SocketFile::~SocketFile() {
    remove();
}

void SocketFile::remove() {
    if (slot_) {
        remove_if_ours(slots[*std::exchange(slot_, std::nullopt)]);
    }
}

void remove_socket_files() {
    for (Slot& slot : slots) {
        remove_if_ours(slot);
    }
}

}  // namespace outrigger
