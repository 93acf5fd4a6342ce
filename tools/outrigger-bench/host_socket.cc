// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/host_socket.h"

#include <cstring>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace outrigger::bench {

Result<HostListener> HostListener::create(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = path + " is too long for a socket"});
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // SAFETY: the sockets API takes every address family by this one pointer type.
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (!socket.valid() || ::bind(socket.get(), generic, sizeof address) != 0) {
        return failure(error_from_errno("cannot listen at " + path));
    }
    HostListener listener(std::move(socket), path);
    if (::listen(listener.socket_.get(), SOMAXCONN) != 0) {
        return failure(error_from_errno("cannot listen at " + path));
    }
    return listener;
}

HostListener::HostListener(HostListener&& other) noexcept
    : socket_(std::move(other.socket_)), path_(std::exchange(other.path_, {})) {}

HostListener::~HostListener() {
    if (!path_.empty()) {
        ::unlink(path_.c_str());
    }
}

Result<UniqueFd> HostListener::accept(driver::Deadline deadline) const {
    if (!driver::wait_readable(socket_.get(), deadline)) {
        return failure(Error{.message = "nobody connects to " + path_});
    }
    UniqueFd accepted(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!accepted.valid()) {
        return failure(error_from_errno("cannot accept at " + path_));
    }
    return accepted;
}

}  // namespace outrigger::bench
