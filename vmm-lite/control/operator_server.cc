// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/control/operator_server.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include <unistd.h>

#include <machine_control.pb.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/printable_text.h"

#include "vmm-lite/control/listening_socket.h"

namespace outrigger::vmm {
namespace {

namespace v1 = control::v1;

constexpr std::chrono::milliseconds kAcceptRetry{250};

void set_error(v1::Reply& reply, v1::Error::Code code, const std::string& message) {
    reply.mutable_error()->set_code(code);
    reply.mutable_error()->set_message(outrigger::control::printable(message));
}

}  // namespace

Result<std::unique_ptr<OperatorServer>> OperatorServer::listen(EventLoop& loop,
                                                               const std::string& path,
                                                               MachineOperator& machine,
                                                               const OperatorLimits& limits) {
    UniqueFd listener = OUTRIGGER_TRY(listen_at(path, "--control-socket"));
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
