// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/keeper_store.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/daemon/passed_descriptor.h"
#include "vhost-user-backend/daemon/socket_file.h"

namespace outrigger {
namespace {

constexpr size_t kStoredMax = 65'536;
constexpr size_t kNameBytesMax = 64;
// The names of so many go into one message.
static_assert(kKeeperFdsMax * (kNameBytesMax + 1) + 16 <= kKeeperTextMax);

}  // namespace

void KeeperStore::close_inherited() const {
    for (const int number : named_.inherited) {
        // It came to us through an exec, which nothing that is our own would.
        if (is_passed(number)) {
            reserve_number(number);
        }
    }
}

void KeeperStore::store(const KeeperMessage& message, UniqueFd fd) {
    const std::string name(message.field("FDNAME"));
    const bool fine = name.starts_with(kStorePrefix) && name.size() <= kNameBytesMax &&
                      name.find(':') == std::string::npos;
    if (!fine || closed_ || (stored_.size() >= kStoredMax && !stored_.contains(name))) {
        return;
    }
    removed_later_.erase(name);
    stored_.insert_or_assign(name, std::move(fd));
}

void KeeperStore::remove(std::string_view name) {
    const auto found = stored_.find(name);
    if (found != stored_.end()) {
        stored_.erase(found);
    }
}

void KeeperStore::remove_later(std::string_view name) {
    if (stored_.contains(name)) {
        removed_later_.emplace(name);
    }
}

void KeeperStore::settle(bool removes) {
    for (const std::string& name : std::exchange(removed_later_, {})) {
        if (removes) {
            remove(name);
        }
    }
}

bool KeeperStore::give_all(int channel, std::string_view go) const {
    std::string names;
    std::vector<int> fds;
    bool sent = true;
    const auto flush = [&] {
        sent = sent && send_keeper_message(channel, "FDNAMES=" + names, fds);
        names.clear();
        fds.clear();
    };
    for (const auto& [name, fd] : stored_) {
        names += (names.empty() ? "" : ":") + name;
        fds.push_back(fd.get());
        if (fds.size() == kKeeperFdsMax) {
            flush();
        }
    }
    if (!fds.empty()) {
        flush();
    }
    return sent && send_keeper_message(channel, "GO=" + std::string(go));
}

void KeeperStore::close() {
    if (!std::exchange(closed_, true)) {
        find_device_sockets();
    }
    std::erase_if(stored_, [this](const auto& item) {
        return std::ranges::none_of(named_.socket_paths, [&](const auto& socket) {
            return socket.file_name == item.first;
        });
    });
}

/// "outrigger.dKEY.NAME-file" is the file of the listening socket "outrigger.dKEY.NAME", which a
/// device has beside those of front ends.
void KeeperStore::find_device_sockets() {
    constexpr std::string_view kSuffix = "-file";
    for (const auto& [name, file] : stored_) {
        if (!name.starts_with(std::string(kStorePrefix) + "d") || !name.ends_with(kSuffix)) {
            continue;
        }
        const auto socket = stored_.find(name.substr(0, name.size() - kSuffix.size()));
        if (socket != stored_.end()) {
            named_.socket_paths.push_back(
                {.path = bound_path(socket->second.get()), .file_name = name});
        }
    }
}

void KeeperStore::remove_socket_files() const {
    for (const KeeperSettings::SocketPath& socket : named_.socket_paths) {
        const auto kept = stored_.find(socket.file_name);
        if (kept != stored_.end()) {
            // Gone as soon as it is ours, if it still is what the program made.
            (void)SocketFile::adopt_kept(socket.path, kept->second.get());
        }
    }
}

}  // namespace outrigger
