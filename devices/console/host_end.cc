// SPDX-License-Identifier: Apache-2.0
#include "devices/console/host_end.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/listening_socket.h"

namespace outrigger::console {
namespace {

/// Viewers that may wait while many come at once.
constexpr int kBacklog = 128;

/// What the process before had open under that name; invalid when there is none.
UniqueFd find(const KeptPort& kept, const char* what) {
    return kept.keeper != nullptr ? kept.keeper->take(kept.name(what)) : UniqueFd();
}

/// Where there is a keeper, it has `fd` from now on.
Result<void> keep(const KeptPort& kept, const char* what, int fd) {
    if (kept.keeper != nullptr && !kept.keeper->keep_open(kept.name(what), fd)) {
        return failure(Error{.message = "the keeper does not take a descriptor"});
    }
    return {};
}

/// `what` and `what`.file are its names at the keeper.
Result<UniqueFd> listen_unix(const std::string& path, const char* what, HostEnd& end) {
    const std::string file_name = std::string(what) + ".file";
    UniqueFd kept = find(end.kept, what);
    if (kept.valid()) {
        ListeningSocket socket =
            OUTRIGGER_TRY(listen_on(std::move(kept), path, find(end.kept, file_name.c_str())));
        if (socket.file) {
            end.sockets.push_back(*std::move(socket.file));
        }
        return std::move(socket.fd);
    }
    ListeningSocket socket = OUTRIGGER_TRY(listen_at(path, {.backlog = kBacklog}));
    end.sockets.push_back(*std::move(socket.file));
    if (const UniqueFd file = SocketFile::open_file(path); file.valid()) {
        OUTRIGGER_TRY(keep(end.kept, file_name.c_str(), file.get()));
    }
    OUTRIGGER_TRY(keep(end.kept, what, socket.fd.get()));
    return std::move(socket.fd);
}

Result<UniqueFd> listen_tcp(uint16_t port, HostEnd& end) {
    if (UniqueFd kept = find(end.kept, "listener"); kept.valid()) {
        return kept;
    }
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    // SAFETY: sockets' addresses are passed so; bind() reads `sizeof address` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (!fd.valid() || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(fd.get(), generic, sizeof address) != 0 || ::listen(fd.get(), kBacklog) != 0) {
        return failure(error_from_errno(fmt::format("cannot listen at 127.0.0.1:{}", port)));
    }
    OUTRIGGER_TRY(keep(end.kept, "listener", fd.get()));
    return fd;
}

bool is_at_loopback(const in_addr& at) {
    const in_addr_t number = ntohl(at.s_addr);
    return number == INADDR_LOOPBACK || number == INADDR_ANY;
}

/// A socket of IPv6 takes connections of IPv4, too, where it is at all addresses and not told
/// otherwise, or at an address of IPv4.
bool is_at_loopback(int fd, const in6_addr& at) {
    if (IN6_IS_ADDR_V4MAPPED(&at)) {
        in_addr mapped{};
        std::memcpy(&mapped, &at.s6_addr[12], sizeof mapped);
        return is_at_loopback(mapped);
    }
    int only_ip6 = 1;
    socklen_t size = sizeof only_ip6;
    return IN6_IS_ADDR_UNSPECIFIED(&at) &&
           ::getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_ip6, &size) == 0 && only_ip6 == 0;
}

/// The port at which programs of the host reach it by 127.0.0.1; empty: not so.
std::string loopback_port(int fd) {
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    // SAFETY: sockets' addresses are passed so; getsockname() writes at most `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
        return {};
    }
    if (own.ss_family == AF_INET) {
        sockaddr_in address{};
        std::memcpy(&address, &own, sizeof address);
        return is_at_loopback(address.sin_addr) ? std::to_string(ntohs(address.sin_port)) : "";
    }
    if (own.ss_family == AF_INET6) {
        sockaddr_in6 address{};
        std::memcpy(&address, &own, sizeof address);
        return is_at_loopback(fd, address.sin6_addr) ? std::to_string(ntohs(address.sin6_port))
                                                     : "";
    }
    return {};
}

/// What the service manager passes. It does so to the next process, too.
Result<void> take_passed(const ActivatedRequest& request, HostEnd& end) {
    ActivatedSocket passed = OUTRIGGER_TRY(take_activated_socket(request));
    end.place =
        request.kind == ActivatedKind::kTcpListener ? loopback_port(passed.fd.get()) : passed.path;
    end.listener = std::move(passed.fd);
    end.size_listener = std::move(passed.second);
    return {};
}

/// A symbolic link at `path`, in place of one that a run before left.
Result<void> make_link(const std::string& target, const std::string& path, HostEnd& end) {
    struct stat status {};

    if (::lstat(path.c_str(), &status) == 0) {
        if (!S_ISLNK(status.st_mode)) {
            return failure(
                Error{.message = path + " exists and is not a symbolic link: choose another path"});
        }
        if (::unlink(path.c_str()) != 0) {
            return failure(error_from_errno("cannot replace the link " + path));
        }
    }
    if (::symlink(target.c_str(), path.c_str()) != 0) {
        return failure(error_from_errno("cannot make the link " + path));
    }
    end.link.emplace(OUTRIGGER_TRY(OwnedName::adopt(path)));
    return {};
}

/// The link that the process before made, if it is still there.
bool has_link_to(const std::string& target, const std::string& path) {
    std::array<char, 128> found{};
    const ssize_t length = ::readlink(path.c_str(), found.data(), found.size());
    return length > 0 && target == std::string_view(found.data(), static_cast<size_t>(length));
}

/// False: there is nothing to go on with.
Result<bool> find_pty(const PortOptions& port, HostEnd& end) {
    end.pty_master = find(end.kept, "pty");
    end.pty_events = find(end.kept, "users");
    std::array<char, 128> name{};
    if (!end.pty_master.valid() || !end.pty_events.valid()) {
        return false;
    }
    if (::ptsname_r(end.pty_master.get(), name.data(), name.size()) != 0) {
        return failure(error_from_errno("what the keeper has is no pseudo-terminal"));
    }
    if (!port.path.empty() && has_link_to(name.data(), port.path)) {
        end.link.emplace(OUTRIGGER_TRY(OwnedName::adopt(port.path)));
    }
    return true;
}

Result<void> open_pty(const PortOptions& port, HostEnd& end) {
    if (OUTRIGGER_TRY(find_pty(port, end))) {
        return {};
    }
    end.pty_master = UniqueFd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    std::array<char, 128> name{};
    if (!end.pty_master.valid() || ::grantpt(end.pty_master.get()) != 0 ||
        ::unlockpt(end.pty_master.get()) != 0 ||
        ::ptsname_r(end.pty_master.get(), name.data(), name.size()) != 0) {
        return failure(error_from_errno("cannot make a pseudo-terminal"));
    }
    // Until it was open once it looks as if somebody had it. What it is set to, and what is in it,
    // outlives its users.
    UniqueFd users_side(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    termios raw{};
    if (!users_side.valid() || ::tcgetattr(users_side.get(), &raw) != 0) {
        return failure(error_from_errno("cannot open the pseudo-terminal"));
    }
    // The guest echoes, and no byte of either side means anything here.
    ::cfmakeraw(&raw);
    const winsize size{.ws_row = port.rows, .ws_col = port.columns, .ws_xpixel = 0, .ws_ypixel = 0};
    if (::tcsetattr(users_side.get(), TCSANOW, &raw) != 0 ||
        ::ioctl(end.pty_master.get(), TIOCSWINSZ, &size) != 0) {
        return failure(error_from_errno("cannot set up the pseudo-terminal"));
    }
    users_side.reset();
    end.pty_events = UniqueFd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!end.pty_events.valid() ||
        ::inotify_add_watch(end.pty_events.get(), name.data(), IN_OPEN) < 0) {
        return failure(error_from_errno("cannot watch the pseudo-terminal"));
    }
    OUTRIGGER_TRY(keep(end.kept, "users", end.pty_events.get()));
    OUTRIGGER_TRY(keep(end.kept, "pty", end.pty_master.get()));
    if (!port.path.empty()) {
        OUTRIGGER_TRY(make_link(name.data(), port.path, end));
    } else {
        log(LogLevel::kInfo, "console: port {} is at {}", port.name, name.data());
    }
    return {};
}

bool is_socket(int fd) {
    struct stat status {};

    return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

/// Another open file for what `fd` is, so that we alone do not wait for it: whoever started us may
/// share ours.
Result<UniqueFd> open_again(int fd, int flags) {
    if (is_socket(fd)) {
        UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
        if (!copy.valid()) {
            return failure(error_from_errno("cannot use standard input and output"));
        }
        return copy;
    }
    UniqueFd again(::open(fmt::format("/proc/self/fd/{}", fd).c_str(),
                          flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (!again.valid()) {
        // A terminal of another user, say. Then all who share it do not wait.
        again = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
        const int before = ::fcntl(fd, F_GETFL);
        if (!again.valid() || before < 0 || ::fcntl(fd, F_SETFL, before | O_NONBLOCK) != 0) {
            return failure(error_from_errno("cannot use standard input and output"));
        }
    }
    return again;
}

Result<void> open_stdio(HostEnd& end) {
    end.input = OUTRIGGER_TRY(open_again(STDIN_FILENO, O_RDONLY));
    end.output = OUTRIGGER_TRY(open_again(STDOUT_FILENO, O_WRONLY));
    end.input_is_socket = is_socket(end.input.get());
    end.output_is_socket = is_socket(end.output.get());
    if (::isatty(end.input.get()) == 1) {
        end.terminal.emplace(OUTRIGGER_TRY(RawTerminal::enter(end.input.get())));
    }
    return {};
}

}  // namespace

std::string slot_name(const char* what, size_t slot) {
    return fmt::format("{}{}", what, slot);
}

namespace {

/// Those of `table` whose descriptors the keeper has under `what` and their slot.
std::vector<HostEnd::Left> find_all(const KeptPort& kept,
                                    const char* what,
                                    KeptViewers table,
                                    bool have_descriptors) {
    std::vector<HostEnd::Left> all;
    for (const KeptViewers::Viewer& known : table.all()) {
        UniqueFd fd = find(kept, slot_name(what, known.slot).c_str());
        // A pseudo-terminal has one.
        if (fd.valid() == have_descriptors && (have_descriptors || all.empty())) {
            all.push_back({.known = known, .fd = std::move(fd)});
        } else {
            table.end(known.slot);
        }
    }
    return all;
}

}  // namespace

Result<HostEnd> open_host_end(const PortOptions& port, const KeptPort& kept) {
    HostEnd end{.kept = kept};
    if (!port.log_path.empty()) {
        end.log.emplace(OUTRIGGER_TRY(LogFile::open(
            {.path = port.log_path, .bytes_max = port.log_bytes_max, .files = port.log_files},
            kept.log)));
    }
    switch (port.backend) {
        case Backend::kPty:
            OUTRIGGER_TRY(open_pty(port, end));
            break;
        case Backend::kUnix:
            if (const auto request = activated_request(port)) {
                OUTRIGGER_TRY(take_passed(*request, end));
                break;
            }
            end.listener = OUTRIGGER_TRY(listen_unix(port.path, "listener", end));
            end.size_listener =
                OUTRIGGER_TRY(listen_unix(size_socket_path(port.path), "sizes", end));
            break;
        case Backend::kTcp:
            if (const auto request = activated_request(port)) {
                OUTRIGGER_TRY(take_passed(*request, end));
                break;
            }
            end.listener = OUTRIGGER_TRY(listen_tcp(port.tcp_port, end));
            break;
        case Backend::kStdio:
            OUTRIGGER_TRY(open_stdio(end));
            break;
        case Backend::kFile:
            end.file.emplace(OUTRIGGER_TRY(LogFile::open({.path = port.path}, kept.file)));
            break;
        case Backend::kNull:
            break;
    }
    end.viewers = find_all(kept,
                           kKeptViewer,
                           KeptViewers(kept.viewers, port.viewers_max),
                           port.backend != Backend::kPty);
    end.size_tellers =
        find_all(kept, kKeptSizeTeller, KeptViewers(kept.size_tellers, port.viewers_max), true);
    return end;
}

}  // namespace outrigger::console
