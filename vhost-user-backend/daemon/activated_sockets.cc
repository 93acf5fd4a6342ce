// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/activated_sockets.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/daemon/keeper_message.h"
#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/daemon/service_manager.h"

namespace outrigger {
namespace {

/// A socket that was passed, as it is.
struct Passed {
    std::string name;
    int number = -1;
    sa_family_t family = AF_UNSPEC;
    int type = 0;
    bool listening = false;
    bool connected = false;  ///< a stream
    bool taken = false;
    std::string path{};
};

/// Of this process. Thread-bound: the main thread, before there are others.
std::vector<Passed>& noted() {
    static std::vector<Passed> sockets;
    return sockets;
}

/// Their names, in the order of their numbers; nothing: there is no service manager that means us.
std::optional<std::vector<std::string>> passed_names() {
    const auto count = service_manager::number_of("LISTEN_FDS");
    const auto names = service_manager::text_of("LISTEN_FDNAMES");
    const bool parent_is_keeper = std::getenv(DescriptorStore::kChannelVariable) != nullptr;
    if (!service_manager::is_for_us("LISTEN_PID", parent_is_keeper) || !count || !names) {
        return std::nullopt;
    }
    std::vector<std::string> list = split_names(*names);
    list.resize(std::min(list.size(), static_cast<size_t>(*count)));
    return list;
}

/// Are there any, and none has a name?
bool are_nameless() {
    return service_manager::is_for_us("LISTEN_PID", false) &&
           service_manager::number_of("LISTEN_FDS").value_or(0) > 0 &&
           !service_manager::text_of("LISTEN_FDNAMES");
}

std::string asked(const ActivatedRequest& request) {
    return request.option + "=" + request.name;
}

std::unexpected<Error> not_passed(const ActivatedRequest& request,
                                  std::span<const std::string> names) {
    std::string listed;
    for (const std::string& name : names) {
        // What a keeper left there is of no use to whoever reads this.
        if (!name.starts_with(kStorePrefix)) {
            listed += (listed.empty() ? "" : ":") + name;
        }
    }
    return failure(Error{.message = asked(request) +
                                    ": the service manager passes no socket of that name; " +
                                    "it passes '" + listed + "'"});
}

std::unexpected<Error> too_many(const ActivatedRequest& request) {
    return failure(Error{.message = asked(request) +
                                    ": the service manager passes several sockets of " +
                                    "that name: give each its own"});
}

int socket_option(int fd, int option) {
    int value = -1;
    socklen_t size = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

/// Of no family where that number is no socket, or not open.
Passed look_at(const std::string& name, int number) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    // SAFETY: the socket calls take every address type through this pointer type, and write at most
    // `size` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (::getsockname(number, generic, &size) != 0) {
        return {.name = name, .number = number};
    }
    Passed passed{.name = name,
                  .number = number,
                  .family = address.ss_family,
                  .type = socket_option(number, SO_TYPE),
                  .listening = socket_option(number, SO_ACCEPTCONN) == 1};
    if (passed.family == AF_UNIX) {
        passed.path = bound_path(number);
    }
    size = sizeof address;
    // Who had datagrams before may have chosen a peer: that is no connection.
    passed.connected = passed.type == SOCK_STREAM && !passed.listening &&
                       ::getpeername(number, generic, &size) == 0;
    return passed;
}

bool is_of_kind(const Passed& socket, ActivatedKind kind) {
    const bool unix_stream = socket.family == AF_UNIX && socket.type == SOCK_STREAM;
    const bool tcp_stream =
        (socket.family == AF_INET || socket.family == AF_INET6) && socket.type == SOCK_STREAM;
    switch (kind) {
        case ActivatedKind::kUnixStream:
            return unix_stream && (socket.listening || socket.connected);
        case ActivatedKind::kUnixListener:
            return unix_stream && socket.listening;
        case ActivatedKind::kUnixSeqpacket:
            return socket.family == AF_UNIX && socket.type == SOCK_SEQPACKET && socket.listening;
        case ActivatedKind::kUnixDatagrams:
            return socket.family == AF_UNIX && socket.type == SOCK_DGRAM;
        case ActivatedKind::kTcpListener:
            return tcp_stream && socket.listening;
        case ActivatedKind::kListener:
            return (unix_stream || tcp_stream) && socket.listening;
    }
    return false;
}

std::string_view describe(ActivatedKind kind) {
    switch (kind) {
        case ActivatedKind::kUnixStream:
            return "Unix stream socket that listens (ListenStream=PATH) or is connected";
        case ActivatedKind::kUnixListener:
            return "Unix stream socket that listens (ListenStream=PATH)";
        case ActivatedKind::kUnixSeqpacket:
            return "Unix socket of packets in sequence that listens (ListenSequentialPacket=PATH)";
        case ActivatedKind::kUnixDatagrams:
            return "Unix datagram socket (ListenDatagram=PATH)";
        case ActivatedKind::kTcpListener:
            return "TCP socket that listens (ListenStream=ADDRESS:PORT)";
        case ActivatedKind::kListener:
            return "stream socket that listens, Unix or TCP (ListenStream=)";
    }
    return "socket";
}

/// What is of that name, in its places.
struct Pair {
    const Passed* first = nullptr;
    const Passed* second = nullptr;
};

bool is_second(const ActivatedRequest::Second& second,
               const Passed& socket,
               std::span<const Passed* const> all) {
    if (!is_of_kind(socket, second.kind)) {
        return false;
    }
    return second.suffix.empty() || std::ranges::any_of(all, [&](const Passed* other) {
               return !other->path.empty() &&
                      socket.path == other->path + std::string(second.suffix);
           });
}

Result<Pair> pair_of(const ActivatedRequest& request) {
    std::vector<const Passed*> all;
    std::vector<std::string> names;
    for (const Passed& socket : noted()) {
        names.push_back(socket.name);
        if (socket.name == request.name && !socket.taken) {
            all.push_back(&socket);
        }
    }
    if (all.empty()) {
        return not_passed(request, names);
    }
    Pair pair;
    for (const Passed* const socket : all) {
        const bool comes_second = request.second && is_second(*request.second, *socket, all);
        if (!comes_second && !is_of_kind(*socket, request.kind)) {
            return failure(Error{.message = asked(request) + ": what the service manager passes " +
                                            "is no " + std::string(describe(request.kind))});
        }
        const Passed*& place = comes_second ? pair.second : pair.first;
        if (place != nullptr) {
            return too_many(request);
        }
        place = socket;
    }
    if (pair.first == nullptr) {
        return failure(Error{.message = asked(request) + ": what the service manager passes " +
                                        "is no " + std::string(describe(request.kind))});
    }
    return pair;
}

Result<UniqueFd> prepare(const ActivatedRequest& request, int number) {
    const int flags = ::fcntl(number, F_GETFL);
    if (flags < 0 || ::fcntl(number, F_SETFD, FD_CLOEXEC) != 0 ||
        ::fcntl(number, F_SETFL, flags | O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot prepare " + asked(request)));
    }
    return UniqueFd(number);
}

void drop(int number, bool is_stored, Unnamed unnamed) {
    switch (unnamed) {
        case Unnamed::kClosed:
            ::close(number);
            return;
        case Unnamed::kClosedButStored:
            if (!is_stored) {
                ::close(number);
            }
            return;
        case Unnamed::kReserved:
            reserve_number(number);
            return;
        case Unnamed::kLeft:
            if (is_stored) {
                reserve_number(number);
            }
            return;
    }
}

}  // namespace

void reserve_number(int number) {
    const UniqueFd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!nothing.valid() || ::dup2(nothing.get(), number) < 0 ||
        ::fcntl(number, F_SETFD, FD_CLOEXEC) != 0) {
        ::close(number);
    }
}

Result<void> find_activated_socket(const ActivatedRequest& request) {
    const auto names = passed_names();
    if (!names && are_nameless()) {
        return failure(Error{.message = asked(request) +
                                        ": the service manager passes sockets without names " +
                                        "($LISTEN_FDNAMES): start this by a socket unit, or by "
                                        "systemd-socket-activate with --fdname"});
    }
    if (!names) {
        return failure(Error{.message = asked(request) +
                                        " needs sockets of a service manager ($LISTEN_FDS): start "
                                        "this by a socket unit, or give a path"});
    }
    const auto count = std::ranges::count(*names, request.name);
    if (count == 0) {
        return not_passed(request, *names);
    }
    if (count > (request.second ? 2 : 1)) {
        return too_many(request);
    }
    return {};
}

std::vector<int> activated_numbers(std::string_view name) {
    std::vector<int> numbers;
    int number = service_manager::kFirstListenFd;
    for (const std::string& each : passed_names().value_or(std::vector<std::string>())) {
        if (each == name) {
            numbers.push_back(number);
        }
        ++number;
    }
    return numbers;
}

void note_activated_sockets(std::span<const ActivatedRequest> requests,
                            std::span<const int> others,
                            Unnamed unnamed) {
    noted().clear();
    const auto names = passed_names();
    if (!names) {
        return;
    }
    for (size_t i = 0; i < names->size(); ++i) {
        const std::string& name = (*names)[i];
        const int number = service_manager::kFirstListenFd + static_cast<int>(i);
        const bool is_named = std::ranges::count(requests, name, &ActivatedRequest::name) > 0;
        if (is_named) {
            noted().push_back(look_at(name, number));
        } else if (!std::ranges::count(others, number)) {
            drop(number, name.starts_with(kStorePrefix), unnamed);
        }
    }
}

Result<void> check_activated_sockets(std::span<const ActivatedRequest> requests) {
    for (const ActivatedRequest& request : requests) {
        (void)OUTRIGGER_TRY(pair_of(request));
    }
    return {};
}

Result<ActivatedSocket> take_activated_socket(const ActivatedRequest& request) {
    const Pair pair = OUTRIGGER_TRY(pair_of(request));
    ActivatedSocket taken{.fd = OUTRIGGER_TRY(prepare(request, pair.first->number)),
                          .listening = pair.first->listening,
                          .path = pair.first->path};
    if (pair.second != nullptr) {
        taken.second = OUTRIGGER_TRY(prepare(request, pair.second->number));
    }
    // By it the front end's own end is known (peer_name.h); best effort.
    if (pair.first->connected) {
        (void)platform::name_socket(taken.fd.get());
    }
    for (Passed& socket : noted()) {
        socket.taken = socket.taken || socket.name == request.name;
    }
    return taken;
}

bool has_activated_listener(const ActivatedRequest& request) {
    return std::ranges::any_of(noted(), [&](const Passed& socket) {
        return socket.name == request.name && socket.listening && !socket.taken;
    });
}

std::vector<std::string> activated_paths(const ActivatedRequest& request) {
    std::vector<std::string> paths;
    for (const Passed& socket : noted()) {
        if (socket.name == request.name && !socket.path.empty()) {
            paths.push_back(socket.path);
        }
    }
    return paths;
}

std::vector<int> activated_connections() {
    std::vector<int> numbers;
    for (const Passed& socket : noted()) {
        if (socket.connected) {
            numbers.push_back(socket.number);
        }
    }
    return numbers;
}

}  // namespace outrigger
