// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/control_server.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/control/printable_text.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

constexpr auto kAcceptRetry = std::chrono::milliseconds(250);

void set_error(v1::Reply& reply, v1::Error::Code code, std::string_view message) {
    reply.mutable_error()->set_code(code);
    reply.mutable_error()->set_message(control::printable(message));
}

v1::Error::Code code_of(control::Refusal refusal) {
    switch (refusal) {
        case control::Refusal::kUnknown:
            return v1::Error::UNKNOWN_COMMAND;
        case control::Refusal::kInvalid:
            return v1::Error::INVALID;
        case control::Refusal::kFailed:
            return v1::Error::FAILED;
    }
    return v1::Error::UNSPECIFIED;
}

/// "resize" of Request.resize, for the log.
std::string command_name(const v1::Request& request) {
    const auto* field =
        v1::Request::descriptor()->FindFieldByNumber(static_cast<int>(request.command_case()));
    return field != nullptr ? field->name() : "unknown command";
}

}  // namespace

ControlServer::ControlServer(Environment environment, Endpoint endpoint)
    : environment_(std::move(environment)),
      drains_({.loop = environment_.loop,
               .description = environment_.description,
               .tell_drain = environment_.tell_drain}),
      endpoint_(std::move(endpoint)) {}

ControlServer::~ControlServer() {
    unwatch();
}

void ControlServer::start() {
    if (endpoint_.connection.valid()) {
        serve(std::move(endpoint_.connection));
    } else if (endpoint_.listener) {
        listen();
    }
    // Else the one connection has gone with the process before.
}

void ControlServer::stop_listening() {
    unwatch();
    endpoint_.listener.reset();
}

void ControlServer::listen() {
    watch_ =
        environment_.loop.watch_readable(endpoint_.listener->fd.get(), [this] { on_connection(); });
}

void ControlServer::unwatch() {
    if (watch_) {
        environment_.loop.unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (accept_timer_) {
        environment_.loop.cancel_timer(*std::exchange(accept_timer_, std::nullopt));
    }
}

void ControlServer::on_connection() {
    UniqueFd socket = platform::accept_connection(endpoint_.listener->fd.get());
    if (socket.valid()) {
        serve(std::move(socket));
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
        return;
    }
    // It stays in the backlog, and the socket readable: trying at once would spin.
    unwatch();
    accept_timer_ = environment_.loop.start_timer(EventLoop::Clock::now() + kAcceptRetry, [this] {
        accept_timer_.reset();
        listen();
    });
}

void ControlServer::serve(UniqueFd socket) {
    const std::string peer = platform::describe_peer(socket.get());
    const auto user = platform::peer_user(socket.get());
    const bool welcome =
        user && (*user == environment_.own_user || *user == environment_.root_user);
    const bool room = connections_.size() < kConnectionsMax;
    // One place more, for whoever has to be told that there is none.
    if (connections_.size() > kConnectionsMax) {
        return;
    }
    connections_.emplace_front();
    const auto place = connections_.begin();
    *place = std::make_unique<ControlConnection>(
        environment_.loop,
        std::move(socket),
        environment_.limits,
        ControlConnection::Handler{.on_request =
                                       [this, peer](const v1::Request& request,
                                                    std::vector<UniqueFd> fds,
                                                    ControlConnection::Respond respond) {
                                           handle(request, std::move(fds), peer, respond);
                                       },
                                   .on_end = [this, place] { connections_.erase(place); }});
    v1::Reply reply;
    if (!welcome) {
        client_log_.log(LogLevel::kWarning, "control: refused {}", peer);
        set_error(reply,
                  v1::Error::FORBIDDEN,
                  "only the user of the program, and root, may use its control socket");
        (*place)->turn_away(reply);
    } else if (!room) {
        client_log_.log(LogLevel::kWarning, "control: too many connections: refused {}", peer);
        set_error(reply, v1::Error::TOO_MANY, "too many connections are open: close some");
        (*place)->turn_away(reply);
    }
}

void ControlServer::handle(const v1::Request& request,
                           std::vector<UniqueFd> fds,
                           const std::string& peer,
                           const ControlConnection::Respond& respond) {
    v1::Reply reply;
    switch (request.command_case()) {
        case v1::Request::kDescribe:
            describe(request, reply);
            break;
        case v1::Request::kSetLogLevel: {
            const auto level = log_level_named(request.set_log_level().level());
            if (!level) {
                set_error(reply,
                          v1::Error::INVALID,
                          "there is no such log level: off, error, warning, info, debug or trace");
                break;
            }
            log(LogLevel::kInfo, "control: {}: log level {}", peer, log_level_name(*level));
            set_log_level(*level);
            reply.mutable_done();
            break;
        }
        case v1::Request::COMMAND_NOT_SET:
            set_error(reply,
                      v1::Error::UNKNOWN_COMMAND,
                      "this program does not know the command: it may be older than its client");
            break;
        default:
            hand_on(request, std::move(fds), peer, respond);
            return;
    }
    respond(reply);
}

void ControlServer::hand_on(const v1::Request& request,
                            std::vector<UniqueFd> fds,
                            const std::string& peer,
                            const ControlConnection::Respond& respond) {
    v1::Reply reply;
    const bool drains = request.has_drain() || request.has_resume();
    const auto* const target = environment_.description.find(request.device());
    if (target == nullptr && !(drains && request.device().empty())) {
        set_error(reply,
                  v1::Error::UNKNOWN_DEVICE,
                  request.device().empty() ? "say which device: there are several"
                                           : "there is no device of that name or socket");
        respond(reply);
        return;
    }
    const std::string name = target != nullptr ? target->name : "all devices";
    auto answer =
        [respond, peer, name, command = command_name(request)](control::CommandResult result) {
            v1::Reply answered;
            if (result) {
                log(LogLevel::kInfo, "control: {}: {} {}: done", peer, command, name);
                answered.mutable_done()->set_note(control::printable(*result));
            } else {
                const control::CommandError& error = result.error();
                log(LogLevel::kInfo, "control: {}: {} {}: {}", peer, command, name, error.message);
                set_error(answered, code_of(error.refusal), error.message);
            }
            respond(answered);
        };
    if (request.has_drain()) {
        drains_.drain(request, std::move(answer));
        return;
    }
    if (request.has_resume()) {
        drains_.resume(request, std::move(answer));
        return;
    }
    control::DeviceControl* const device = target->device.control();
    if (device == nullptr) {
        set_error(reply, v1::Error::UNKNOWN_COMMAND, "this kind of device takes no commands");
        respond(reply);
        return;
    }
    device->handle(request, std::move(fds), std::move(answer));
}

void ControlServer::describe(const v1::Request& request, v1::Reply& reply) const {
    const ProgramDescription& description = environment_.description;
    const bool of_one = !request.device().empty();
    const auto* const only = of_one ? description.find(request.device()) : nullptr;
    if (of_one && only == nullptr) {
        set_error(reply, v1::Error::UNKNOWN_DEVICE, "there is no device of that name or socket");
        return;
    }
    description.describe(*reply.mutable_program(), only);
    // Less what is around it.
    constexpr size_t kBytesMax = control::kReplyBytesMax - 64;
    shorten(*reply.mutable_program(), kBytesMax);
}

}  // namespace outrigger
