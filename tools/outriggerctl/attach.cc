// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/attach.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "vhost-user-backend/base/terminal_attachment.h"
#include "vhost-user-backend/control/printable_text.h"

#include "tools/outriggerctl/ctl_client.h"

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

Result<v1::Program> ask_program(const CtlPlan& plan) {
    const UniqueFd socket = OUTRIGGER_TRY(connect_to(plan.socket, plan.timeout));
    v1::Reply reply = OUTRIGGER_TRY(ask(socket.get(), plan.request, -1, plan.timeout));
    if (!reply.has_program()) {
        return refuse(control::printable(reply.error().message()));
    }
    return std::move(*reply.mutable_program());
}

Result<v1::ConsoleDevice> find_console(const v1::Program& program) {
    const v1::Device* found = nullptr;
    for (const v1::Device& device : program.devices()) {
        if (device.has_console()) {
            if (found != nullptr) {
                return refuse("there are several consoles: say which one with --device");
            }
            found = &device;
        }
    }
    if (found == nullptr) {
        return refuse("there is no console");
    }
    return found->console();
}

/// Of a port without a place.
std::string why_nowhere(const std::string& backend) {
    if (backend == "tcp") {
        return "its socket is not at 127.0.0.1";
    }
    return backend == "unix" ? "its socket has no path"
                             : "its backend is " + control::printable(backend);
}

Result<v1::ConsolePort> find_port(const v1::ConsoleDevice& console, const std::string& name) {
    std::vector<const v1::ConsolePort*> meant;
    std::string names;
    for (const v1::ConsolePort& port : console.ports()) {
        if (name.empty() ? !port.place().empty() : port.name() == name) {
            meant.push_back(&port);
            names += (names.empty() ? "" : ", ") + control::printable(port.name());
        }
    }
    if (meant.size() > 1) {
        return refuse("say which port: " + names);
    }
    if (meant.empty()) {
        return refuse(name.empty() ? "no port can be attached to"
                                   : "there is no port " + control::printable(name));
    }
    if (meant.front()->place().empty()) {
        return refuse("port " + control::printable(name) +
                      " cannot be attached to: " + why_nowhere(meant.front()->backend()));
    }
    return *meant.front();
}

Result<AttachmentPlace> place_of(const v1::ConsolePort& port) {
    AttachmentPlace place;
    if (port.backend() == "tcp") {
        place.kind = AttachmentPlace::Kind::kLoopbackPort;
        const char* const end = port.place().data() + port.place().size();
        const auto parsed = std::from_chars(port.place().data(), end, place.port);
        if (parsed.ec != std::errc() || parsed.ptr != end) {
            return refuse("the daemon does not say which TCP port it is");
        }
        return place;
    }
    place.kind = port.backend() == "pty" ? AttachmentPlace::Kind::kTerminal
                                         : AttachmentPlace::Kind::kUnixSocket;
    place.path = port.place();
    if (port.backend() == "unix") {
        place.size_path = port.size_place();
    }
    return place;
}

}  // namespace

Result<void> attach(const CtlPlan& plan) {
    const v1::Program program = OUTRIGGER_TRY(ask_program(plan));
    const v1::ConsoleDevice console = OUTRIGGER_TRY(find_console(program));
    const v1::ConsolePort port = OUTRIGGER_TRY(find_port(console, plan.port));
    return attach_terminal(OUTRIGGER_TRY(place_of(port)), plan.escape);
}

}  // namespace outrigger::ctl
