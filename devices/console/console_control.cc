// SPDX-License-Identifier: Apache-2.0
#include "devices/console/console_control.h"

#include <optional>
#include <string>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/control/printable_text.h"

#include "devices/console/console_device.h"

namespace outrigger::console {
namespace {

namespace v1 = control::v1;

void refuse(control::DeviceControl::Answer& answer, control::Refusal refusal, std::string message) {
    answer(failure(control::CommandError{.refusal = refusal, .message = std::move(message)}));
}

}  // namespace

void ConsoleControl::attach(EventLoop& /*control_loop*/, std::span<Worker* const> /*workers*/) {
    // Ports change under a lock of their own: no worker is asked.
}

void ConsoleControl::describe(v1::Device& out) const {
    for (size_t i = 0; i < device_.port_count(); ++i) {
        v1::ConsolePort& port = *out.mutable_console()->add_ports();
        const PortOptions& options = device_.options(i);
        const PortControl::PortState state = device_.port_state(i);
        const HostCounters& host = device_.host(i).counters();
        port.set_name(control::printable(options.name));
        port.set_backend(std::string(console::describe(options.backend)));
        port.set_is_console(options.console);
        port.set_place(control::printable(options.place));
        if (options.has_size_place) {
            port.set_size_place(control::printable(size_socket_path(options.place)));
        }
        port.set_plugged(state.plugged);
        port.set_guest_open(state.guest_open);
        port.set_host_open(state.host_open);
        port.set_viewers(device_.host(i).viewer_count());
        port.set_columns(state.size.columns);
        port.set_rows(state.size.rows);
        port.set_bytes_written(device_.stream(i).output_bytes());
        port.set_bytes_read(device_.stream(i).input_bytes());
        port.set_bytes_missed(host.bytes_missed.value());
        port.set_input_ignored(host.input_ignored.value());
        port.set_viewers_turned_away(host.turned_away.value());
        port.set_output_waits(device_.counters(i).output_waits.value());
    }
}

void ConsoleControl::handle(const v1::Request& request,
                            std::vector<UniqueFd> /*fds*/,
                            Answer answer) {
    if (!request.has_set_port_plugged()) {
        refuse(answer, control::Refusal::kUnknown, "a console has no such command");
        return;
    }
    const v1::SetPortPlugged& command = request.set_port_plugged();
    for (size_t i = 0; i < device_.port_count(); ++i) {
        if (device_.options(i).name == command.port()) {
            const auto changed = device_.set_plugged(i, command.plugged());
            if (!changed) {
                refuse(answer, control::Refusal::kInvalid, changed.error().message);
                return;
            }
            answer("");
            return;
        }
    }
    refuse(answer,
           control::Refusal::kInvalid,
           "there is no port " + control::printable(command.port()));
}

}  // namespace outrigger::console
