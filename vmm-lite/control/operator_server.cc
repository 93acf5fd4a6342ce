// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/control/operator_server.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <machine_control.pb.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/printable_text.h"

namespace outrigger::vmm {
namespace {

namespace v1 = control::v1;

constexpr std::chrono::milliseconds kAcceptRetry{250};
constexpr int kBacklog = 16;

void set_error(v1::Reply& reply, v1::Error::Code code, const std::string& message) {
    reply.mutable_error()->set_code(code);
    reply.mutable_error()->set_message(outrigger::control::printable(message));
}

Result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = "--control-socket: '" + path +
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

Result<UniqueFd> listen_at(const std::string& path) {
    const sockaddr_un address = OUTRIGGER_TRY(address_of(path));
    UniqueFd listener = platform::open_unix_socket(SOCK_STREAM);
    if (!listener.valid()) {
        return failure(error_from_errno("cannot make a control socket"));
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
        return failure(error_from_code("cannot make the control socket " + path, bind_error));
    }
    if (::fcntl(listener.get(), F_SETFL, O_NONBLOCK) != 0 ||
        ::listen(listener.get(), kBacklog) != 0) {
        const Error error = error_from_errno("cannot listen at " + path);
        (void)::unlink(address.sun_path);
        return failure(error);
    }
    return listener;
}

}  // namespace

Result<std::unique_ptr<OperatorServer>> OperatorServer::listen(EventLoop& loop,
                                                               const std::string& path,
                                                               MachineOperator& machine,
                                                               const OperatorLimits& limits) {
    UniqueFd listener = OUTRIGGER_TRY(listen_at(path));
    auto server = std::unique_ptr<OperatorServer>(
        new OperatorServer(loop, path, std::move(listener), machine, limits));
    OUTRIGGER_TRY(server->watch());
    return server;
}

OperatorServer::OperatorServer(EventLoop& loop,
                               std::string path,
                               UniqueFd listener,
                               MachineOperator& machine,
                               const OperatorLimits& limits)
    : loop_(loop),
      path_(std::move(path)),
      listener_(std::move(listener)),
      machine_(machine),
      limits_(limits) {}

OperatorServer::~OperatorServer() {
    (void)::unlink(path_.c_str());
}

Result<void> OperatorServer::watch() {
    watch_ = OUTRIGGER_TRY(loop_.watch(listener_.get(), [this] { on_connection(); }));
    return {};
}

void OperatorServer::on_connection() {
    UniqueFd socket = platform::accept_connection(listener_.get());
    if (socket.valid()) {
        serve(std::move(socket));
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
        return;
    }
    // It stays in the backlog, and the socket readable: trying at once would spin.
    accept_again_ = loop_.start_timer(kAcceptRetry, [this] {
        if (const auto watching = watch(); !watching) {
            log(LogLevel::kError, "control: {}", watching.error().message);
        }
    });
    watch_ = {};
}

void OperatorServer::serve(UniqueFd socket) {
    const auto user = platform::peer_user(socket.get());
    const bool welcome = user && (*user == ::geteuid() || *user == 0);
    const bool room = connections_.size() < kConnectionsMax;
    // One place more, for whoever has to be told that there is none.
    if (connections_.size() > kConnectionsMax) {
        return;
    }
    if (!welcome || !room) {
        client_log_.log(LogLevel::kWarning,
                        "control: refused {}: {}",
                        platform::describe_peer(socket.get()),
                        welcome ? "too many connections" : "another user");
    }
    connections_.emplace_front();
    const auto place = connections_.begin();
    *place = std::make_unique<OperatorConnection>(
        loop_,
        std::move(socket),
        limits_,
        OperatorConnection::Handler{
            .on_request =
                [this](const v1::Request& request, OperatorConnection::Respond respond) {
                    handle(request, std::move(respond));
                },
            .on_end = [this, place] { connections_.erase(place); }});
    v1::Reply reply;
    if (!welcome) {
        set_error(reply,
                  v1::Error::FORBIDDEN,
                  "only the user of the machine, and root, may use its control socket");
        (*place)->turn_away(reply);
    } else if (!room) {
        set_error(reply, v1::Error::TOO_MANY, "too many connections are open: close some");
        (*place)->turn_away(reply);
    }
}

void OperatorServer::handle(const v1::Request& request, OperatorConnection::Respond respond) {
    v1::Reply reply;
    const auto later = [&respond] {
        return [respond = std::move(respond)](const Result<void>& result) mutable {
            v1::Reply answer;
            if (result) {
                answer.mutable_done();
            } else {
                set_error(answer, v1::Error::FAILED, result.error().message);
            }
            respond(answer);
        };
    };
    switch (request.command_case()) {
        case v1::Request::kStatus:
            machine_.describe(*reply.mutable_machine());
            break;
        case v1::Request::kStatistics:
            machine_.describe(*reply.mutable_costs());
            break;
        case v1::Request::kPause:
            machine_.pause(later());
            return;
        case v1::Request::kResume:
            machine_.resume(later());
            return;
        case v1::Request::kPowerButton:
            later()(machine_.press_power_button());
            return;
        case v1::Request::kQuit:
            reply.mutable_done();
            respond(reply);
            machine_.quit();
            return;
        case v1::Request::COMMAND_NOT_SET:
            set_error(reply, v1::Error::UNKNOWN_COMMAND, "this machine knows no such command");
            break;
    }
    respond(reply);
}

}  // namespace outrigger::vmm
