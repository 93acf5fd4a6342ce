// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/backend_source.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::vmm {
namespace {

class SocketSource final : public BackendSource {
  public:
    explicit SocketSource(std::string path) : path_(std::move(path)) {}

    Result<UniqueFd> open() override {
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        if (path_.empty() || path_.size() >= sizeof address.sun_path) {
            return failure(Error{.message = "the socket's path '" + path_ +
                                            "' is empty or too long: at most 107 bytes"});
        }
        std::memcpy(address.sun_path, path_.data(), path_.size());
        UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
        // Non-blocking: a listener whose backlog is full must not hold the loop up.
        if (!socket.valid() || ::fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
            return failure(error_from_errno("cannot make a socket"));
        }
        // SAFETY: the socket interface takes every address by the type of their common head.
        const auto* const general = reinterpret_cast<const sockaddr*>(&address);
        if (::connect(socket.get(), general, sizeof address) != 0) {
            return failure(error_from_errno("cannot connect to " + path_));
        }
        return socket;
    }

    bool can_reopen() const override { return true; }

    std::string obituary() const override { return {}; }

    std::string describe() const override { return "socket " + path_; }

  private:
    const std::string path_;
};

class PassedSource final : public BackendSource {
  public:
    explicit PassedSource(UniqueFd connected) : connected_(std::move(connected)) {}

    Result<UniqueFd> open() override {
        if (!connected_.valid()) {
            return failure(Error{.message = "a passed socket cannot be connected again"});
        }
        return std::move(connected_);
    }

    bool can_reopen() const override { return connected_.valid(); }

    std::string obituary() const override { return {}; }

    std::string describe() const override { return "passed socket"; }

  private:
    UniqueFd connected_;
};

}  // namespace

std::unique_ptr<BackendSource> socket_source(std::string path) {
    return std::make_unique<SocketSource>(std::move(path));
}

std::unique_ptr<BackendSource> passed_source(UniqueFd connected) {
    return std::make_unique<PassedSource>(std::move(connected));
}

}  // namespace outrigger::vmm
