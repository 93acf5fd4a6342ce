// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/listening_socket.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/passed_descriptor.h"

namespace outrigger {
namespace {

sockaddr_un to_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    OUTRIGGER_ASSERT(path.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

const sockaddr* generic(const sockaddr_un& address) {
    // SAFETY: the socket calls take every address type through this pointer type and tell them
    // apart by sun_family.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return reinterpret_cast<const sockaddr*>(&address);
}

class ScopedUmask final {
  public:
    explicit ScopedUmask(mode_t mask) : before_(::umask(mask)) {}

    ScopedUmask(const ScopedUmask&) = delete;
    ScopedUmask& operator=(const ScopedUmask&) = delete;

    ~ScopedUmask() { ::umask(before_); }

  private:
    mode_t before_;
};

/// Keeps daemons that start at the same time from taking each other's fresh socket for the stale
/// one. Without it (a directory that cannot be read, a lock that is held) we go on all the same.
UniqueFd lock_directory_of(const std::string& path) {
    auto directory = std::filesystem::path(path).parent_path();
    if (directory.empty()) {
        directory = ".";
    }
    UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    constexpr int kAttempts = 50;
    for (int i = 0; fd.valid() && i < kAttempts && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return fd;
}

/// Does any process have the socket at `address` open? Asked with a socket of another type: the
/// kernel then says so without connecting, so a daemon that serves there notices nothing.
Result<bool> in_use(const sockaddr_un& address) {
    const UniqueFd probe = platform::open_unix_socket(SOCK_DGRAM);
    if (!probe.valid()) {
        return failure(error_from_errno("cannot create a socket"));
    }
    if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EPROTOTYPE) {
        return true;
    }
    if (errno == ECONNREFUSED || errno == ENOENT) {
        return false;
    }
    return failure(
        error_from_errno(std::string("cannot tell whether ") + address.sun_path + " is in use"));
}

/// Makes room at `path`, if that is ours to do.
Result<void> remove_stale(const std::string& path) {
    struct stat status {};

    if (::lstat(path.c_str(), &status) != 0) {
        return {};  // nothing there; bind() tells about everything else
    }
    if (!S_ISSOCK(status.st_mode)) {
        return failure(Error{.message = path + " exists and is not a socket: choose another path"});
    }
    if (OUTRIGGER_TRY(in_use(to_address(path)))) {
        return failure(Error{
            .message = path + " belongs to another running program: stop it or choose another path",
            .os_error = EADDRINUSE});
    }
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        return failure(error_from_errno("cannot remove the stale socket " + path));
    }
    return {};
}

int socket_option(int fd, int option) {
    int value = -1;
    socklen_t size = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

/// A socket's own address tells its family on every system, also when it has no name.
bool is_unix_socket(int fd) {
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    // SAFETY: as in generic(); getsockname() writes at most `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
           own.ss_family == AF_UNIX;
}

}  // namespace

Result<ListeningSocket> listen_at(const std::string& path, const ListeningKind& kind) {
    ListeningSocket socket;
    socket.fd = platform::open_unix_socket(kind.type);
    if (!socket.fd.valid() || ::fcntl(socket.fd.get(), F_SETFL, O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot create a socket"));
    }
    const UniqueFd lock = lock_directory_of(path);
    OUTRIGGER_TRY(remove_stale(path));
    // The file is born with its final mode: a chmod afterwards would leave a window.
    const ScopedUmask owner_only(0177);
    const sockaddr_un address = to_address(path);
    if (::bind(socket.fd.get(), generic(address), sizeof address) != 0) {
        return failure(error_from_errno("cannot create the socket " + path));
    }
    socket.file = OUTRIGGER_TRY(SocketFile::adopt(path));
    // Datagrams come to a name without that.
    if (kind.type != SOCK_DGRAM && ::listen(socket.fd.get(), kind.backlog) != 0) {
        return failure(error_from_errno("cannot listen at " + path));
    }
    return socket;
}

std::string bound_path(int fd) {
    sockaddr_un own{};
    socklen_t size = sizeof own;
    // SAFETY: as in generic(); getsockname() writes at most `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0 ||
        own.sun_family != AF_UNIX) {
        return {};
    }
    return std::string(own.sun_path, ::strnlen(own.sun_path, sizeof own.sun_path));
}

Result<ListeningSocket> listen_on(UniqueFd fd,
                                  const std::string& path,
                                  const UniqueFd& file,
                                  int backlog) {
    // Once more, because it is this process now whom front ends see at the other end.
    if (!is_unix_socket(fd.get()) || socket_option(fd.get(), SO_ACCEPTCONN) != 1 ||
        ::listen(fd.get(), backlog) != 0) {
        return failure(Error{.message = "what the keeper has is no listening socket"});
    }
    const std::string made_at = path.empty() ? path : bound_path(fd.get());
    if (made_at != path) {
        return failure(Error{.message = "the socket " + made_at + " cannot move to " + path +
                                        " while it is in use"});
    }
    ListeningSocket socket{.fd = std::move(fd)};
    if (!path.empty() && file.valid()) {
        socket.file = SocketFile::adopt_kept(path, file.get());
        if (!socket.file) {
            log(LogLevel::kWarning, "{} is not the socket that was made there", path);
        }
    }
    return socket;
}

bool is_connection(int fd) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    // Inside the sandbox, which lets no more be asked. A socket that listens has no peer.
    // SAFETY: as in generic(); getpeername() writes at most `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return socket_option(fd, SO_TYPE) == SOCK_STREAM &&
           ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
}

Result<InheritedSocket> take_inherited_socket(int number, std::string_view option) {
    const std::string name = std::string(option) + "=" + std::to_string(number);

    struct stat status {};

    if (::fstat(number, &status) != 0) {
        return failure(Error{.message = name + " is not open: pass a socket under that number",
                             .os_error = EBADF});
    }
    if (!is_passed(number)) {
        // It may be a socket all the same, of another device of ours.
        return failure(Error{.message = name +
                                        " is not passed to this process: give a path, or start the "
                                        "program anew"});
    }
    if (!S_ISSOCK(status.st_mode) || !is_unix_socket(number) ||
        socket_option(number, SO_TYPE) != SOCK_STREAM) {
        return failure(Error{.message = name + " is not a Unix stream socket"});
    }
    const bool listening = socket_option(number, SO_ACCEPTCONN) == 1;
    sockaddr_un peer{};
    socklen_t size = sizeof peer;
    // SAFETY: as in generic(); getpeername() writes at most `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    if (!listening && ::getpeername(number, reinterpret_cast<sockaddr*>(&peer), &size) != 0) {
        return failure(Error{.message = name + " neither listens nor is connected"});
    }
    const int flags = ::fcntl(number, F_GETFL);
    if (::fcntl(number, F_SETFD, FD_CLOEXEC) != 0 ||
        ::fcntl(number, F_SETFL, flags | O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot prepare " + name));
    }
    // By it the front end's own end is known (peer_name.h). Best effort: where there is no name
    // to be had, a front end can keep a device for which its starter made a pair of sockets.
    if (!listening) {
        (void)platform::name_socket(number);
    }
    return InheritedSocket{.fd = UniqueFd(number), .listening = listening};
}

}  // namespace outrigger
