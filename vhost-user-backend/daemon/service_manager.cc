// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/service_manager.h"

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::service_manager {

std::optional<std::string> text_of(const char* variable) {
    const char* const text = std::getenv(variable);
    return text != nullptr && *text != '\0' ? std::optional<std::string>(text) : std::nullopt;
}

std::optional<int> number_of(const char* variable) {
    const char* const text = std::getenv(variable);
    if (text == nullptr) {
        return std::nullopt;
    }
    int number = 0;
    const char* const end = text + std::strlen(text);
    const auto [at, error] = std::from_chars(text, end, number);
    return error == std::errc() && at == end && number >= 0 ? std::optional(number) : std::nullopt;
}

bool is_for_us(const char* variable, bool parent_is_keeper) {
    const auto process = number_of(variable);
    return process && (*process == ::getpid() || (parent_is_keeper && *process == ::getppid()));
}

Result<UniqueFd> connect() {
    const auto path = text_of("NOTIFY_SOCKET");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (!path || ((*path)[0] != '/' && (*path)[0] != '@') ||
        path->size() >= sizeof address.sun_path) {
        return failure(Error{.message = "$NOTIFY_SOCKET names no socket of a service manager"});
    }
    std::memcpy(address.sun_path, path->data(), path->size());
    const size_t length = offsetof(sockaddr_un, sun_path) + path->size();
    if ((*path)[0] == '@') {
        address.sun_path[0] = '\0';  // an abstract name
    }
    UniqueFd socket = platform::open_unix_socket(SOCK_DGRAM);
    // SAFETY: connect() takes every address type through this pointer type.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (!socket.valid() || ::connect(socket.get(), generic, static_cast<socklen_t>(length)) != 0) {
        return failure(error_from_errno("cannot reach the service manager at " + *path));
    }
    return socket;
}

}  // namespace outrigger::service_manager
