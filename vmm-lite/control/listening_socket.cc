// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/control/listening_socket.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::vmm {
namespace {

constexpr int kBacklog = 16;

Result<sockaddr_un> address_of(const std::string& path, std::string_view option) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = std::string(option) + ": '" + path +
                                        "' is empty or too long: at most 107 bytes"});
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

/// True when a socket is there that nobody listens on.
bool is_stale(const sockaddr_un& address) {
    struct stat file {};

    if (::lstat(address.sun_path, &file) != 0 || !S_ISSOCK(file.st_mode)) {
        return false;
    }
    const UniqueFd probe = platform::open_unix_socket(SOCK_STREAM);
    // Non-blocking: one whose backlog is full is no stale one.
    if (!probe.valid() || ::fcntl(probe.get(), F_SETFL, O_NONBLOCK) != 0) {
        return false;
    }
    // SAFETY: the socket interface takes every address by the type of their common head.
    const auto* const general = reinterpret_cast<const sockaddr*>(&address);
    return ::connect(probe.get(), general, sizeof address) != 0 && errno == ECONNREFUSED;
}

}  // namespace

Result<UniqueFd> listen_at(const std::string& path, std::string_view option) {
    const sockaddr_un address = OUTRIGGER_TRY(address_of(path, option));
    UniqueFd listener = platform::open_unix_socket(SOCK_STREAM);
    if (!listener.valid()) {
        return failure(error_from_errno(std::string(option) + ": cannot make a socket"));
    }
    if (is_stale(address)) {
        (void)::unlink(address.sun_path);
    }
    // SAFETY: as above.
    const auto* const general = reinterpret_cast<const sockaddr*>(&address);
    // The mode that the file has from its first moment on. No other thread makes files now.
    const mode_t before = ::umask(0177);
    const int bound = ::bind(listener.get(), general, sizeof address);
    const int bind_error = errno;
    ::umask(before);
    if (bound != 0) {
        return failure(error_from_code(std::string(option) + ": cannot make " + path, bind_error));
    }
    if (::fcntl(listener.get(), F_SETFL, O_NONBLOCK) != 0 ||
        ::listen(listener.get(), kBacklog) != 0) {
        const Error error = error_from_errno(std::string(option) + ": cannot listen at " + path);
        (void)::unlink(address.sun_path);
        return failure(error);
    }
    return listener;
}

}  // namespace outrigger::vmm
