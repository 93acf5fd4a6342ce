// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session_name.h"

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <set>

#include <sys/socket.h>
#include <sys/un.h>

namespace outrigger {
namespace {

/// Sessions of one program may have several control threads. Never destroyed: a session may be the
/// last thing that goes.
struct Names {
    std::mutex mutex;
    std::multiset<std::string> names;
};

Names& known() {
    static Names& names = *new Names;
    return names;
}

/// What getsockname() or getpeername() say: empty when there is no name.
template <class Ask>
std::string name_by(Ask ask, int fd) {
    sockaddr_un address{};
    socklen_t bytes = sizeof address;
    // SAFETY: the socket API takes every address family through sockaddr and writes sizeof(address)
    // bytes at most; of a longer address of another family only the family is read.
    if (ask(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0 ||
        address.sun_family != AF_UNIX || bytes <= offsetof(sockaddr_un, sun_path)) {
        return {};
    }
    const auto length =
        std::min<size_t>(bytes - offsetof(sockaddr_un, sun_path), sizeof address.sun_path);
    std::string name(address.sun_path, length);
    // A name in the file system ends before its first zero byte, wherever the system says that it
    // ends; one that begins with a zero byte is an abstract one, all of which counts.
    if (const size_t end = name.find('\0', 1); name[0] != '\0' && end != std::string::npos) {
        name.resize(end);
    }
    // Other systems give a socket without a name a path of zeroes.
    return std::ranges::all_of(name, [](char c) { return c == '\0'; }) ? std::string() : name;
}

}  // namespace

SessionName::SessionName(int socket) : name_(name_by(::getsockname, socket)) {
    if (!name_.empty()) {
        const std::lock_guard lock(known().mutex);
        known().names.insert(name_);
    }
}

SessionName::~SessionName() {
    if (!name_.empty()) {
        const std::lock_guard lock(known().mutex);
        known().names.erase(known().names.find(name_));
    }
}

bool leads_to_session(int fd) {
    const std::string peer = name_by(::getpeername, fd);
    if (peer.empty()) {
        return false;
    }
    const std::lock_guard lock(known().mutex);
    return known().names.contains(peer);
}

}  // namespace outrigger
