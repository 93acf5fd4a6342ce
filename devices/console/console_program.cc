// SPDX-License-Identifier: Apache-2.0
#include "devices/console/console_program.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "vhost-user-backend/daemon/activated_sockets.h"

#include "devices/console/console_device.h"
#include "devices/console/console_sandbox.h"
#include "devices/console/host_end.h"
#include "devices/console/host_thread.h"
#include "devices/console/kept_console.h"
#include "devices/console/port_options.h"

namespace outrigger::console {
namespace {

constexpr std::string_view kResizeOrders[] = {"spec", "legacy"};

constexpr std::array kOptions = {
    OptionSpec{.name = "port",
               .value_name = "KEY=VALUE,...",
               .help =
                   "A port of the guest, up to 31 times; the first one is port 0. Keys: name "
                   "(required), backend (required: pty, unix, tcp, stdio, file or null), link "
                   "(pty: a symbolic link to it), path (unix and file), tcp-port (on 127.0.0.1), "
                   "fd-name (unix and tcp, in the place of these: a socket that the service "
                   "manager passes, as for --fd-name), "
                   "console=on|off (a terminal that never makes the guest wait; on for the "
                   "first port), plugged=off (not there until outriggerctl plug), log (a "
                   "file that gets all output), log-max (rotate at this size), log-files (how "
                   "many rotated ones are kept, 1), replay (bytes that a new viewer gets of "
                   "what was written before, 64K for consoles), viewers (how many at a time, "
                   "64), size=COLUMNSxROWS. Sizes take K, M or G",
               .repeatable = true},
    OptionSpec{.name = "multiport",
               .kind = OptionKind::kFlag,
               .help = "Offer several ports, names and opening and closing (VIRTIO_CONSOLE_F_"
                       "MULTIPORT): 2 rings a port and 2 more. With off there is one port and 2 "
                       "rings",
               .default_value = "on"},
    OptionSpec{.name = "resize-order",
               .kind = OptionKind::kChoice,
               .value_name = "ORDER",
               .help = "How the guest is told a new size of a terminal: columns first as the "
                       "specification says (spec), or rows first as Linux took it until 2025 "
                       "(legacy)",
               .default_value = "spec",
               .choices = kResizeOrders},
    OptionSpec{.name = "attach",
               .value_name = "PATH",
               .help = "Serve nothing, but connect this terminal to the port whose Unix socket is "
                       "PATH; no other option but --escape goes with it"},
    OptionSpec{.name = "escape",
               .value_name = "KEY",
               .help = "The control key that ends --attach, as a caret and a character, or none",
               .default_value = "^]"},
};

Result<void> check_options(const OptionValues& values) {
    const auto ports = OUTRIGGER_TRY(parse_ports(values.texts("port")));
    if (!values.flag("multiport") && (ports.size() > 1 || !ports.front().plugged)) {
        return failure(Error{.message = "--multiport=off goes with one --port that is plugged"});
    }
    return {};
}

/// Relative paths are of the directory where we were started; who asks for them is elsewhere.
std::string place_of(const PortOptions& port) {
    switch (port.backend) {
        case Backend::kPty:
        case Backend::kUnix: {
            std::error_code ignored;
            return port.path.empty() ? "" : std::filesystem::absolute(port.path, ignored).string();
        }
        case Backend::kTcp:
            return port.tcp_port != 0 ? std::to_string(port.tcp_port) : "";
        case Backend::kStdio:
        case Backend::kFile:
        case Backend::kNull:
            return "";
    }
    return "";
}

Result<ConsoleSettings> settings_from(const OptionValues& values) {
    auto ports = OUTRIGGER_TRY(parse_ports(values.texts("port")));
    for (PortOptions& port : ports) {
        port.place = place_of(port);
        port.has_size_place = port.backend == Backend::kUnix;
    }
    return ConsoleSettings{.ports = std::move(ports),
                           .multiport = values.flag("multiport"),
                           .resize_order = values.text("resize-order") == "legacy"
                                               ? ResizeOrder::kLegacy
                                               : ResizeOrder::kSpecification};
}

Result<std::unique_ptr<Device>> open_and_create(ConsoleSettings settings) {
    bool has_files = false;
    for (size_t i = 0; i < settings.ports.size(); ++i) {
        PortOptions& port = settings.ports[i];
        auto end = settings.kept != nullptr ? open_host_end(port, settings.kept->port(i))
                                            : open_host_end(port);
        if (!end) {
            return failure(Error{.message = "port " + port.name + ": " + end.error().message,
                                 .os_error = end.error().os_error});
        }
        if (!port.fd_name.empty()) {
            port.place = end->place;
            port.has_size_place = end->size_listener.valid();
        }
        has_files = has_files || end->log || end->file;
        settings.ends.push_back(*std::move(end));
    }
    if (has_files) {
        OUTRIGGER_TRY(HostThread::reopen_on_hangup());
    }
    std::unique_ptr<Device> device = OUTRIGGER_TRY(ConsoleDevice::create(std::move(settings)));
    return device;
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    return open_and_create(OUTRIGGER_TRY(settings_from(values)));
}

Result<std::unique_ptr<Device>> create_kept_device(const OptionValues& values,
                                                   DeviceKeeper& keeper) {
    ConsoleSettings settings = OUTRIGGER_TRY(settings_from(values));
    settings.kept =
        std::make_unique<KeptConsole>(OUTRIGGER_TRY(KeptConsole::open(keeper, settings.ports)));
    settings.conduit = OUTRIGGER_TRY(settings.kept->open_conduit(settings.ports));
    return open_and_create(std::move(settings));
}

std::vector<ActivatedRequest> activated_sockets(const OptionValues& values) {
    const auto ports = parse_ports(values.texts("port"));
    OUTRIGGER_ASSERT(ports.has_value());  // see check_options()
    std::vector<ActivatedRequest> requests;
    for (const PortOptions& port : *ports) {
        if (auto request = activated_request(port)) {
            requests.push_back(*std::move(request));
        }
    }
    return requests;
}

/// Not with our own terminal: whoever sits at it sees the program end, and has the terminal back.
bool can_go_on(const OptionValues& values) {
    const auto ports = parse_ports(values.texts("port"));
    OUTRIGGER_ASSERT(ports.has_value());  // see check_options()
    return std::ranges::none_of(
        *ports, [](const PortOptions& port) { return port.backend == Backend::kStdio; });
}

/// Where names are made and removed behind the sandbox.
SandboxExtras sandbox_extras(const OptionValues& values) {
    SandboxExtras extras;
    const auto ports = parse_ports(values.texts("port"));
    OUTRIGGER_ASSERT(ports.has_value());  // see check_options()
    for (const PortOptions& port : *ports) {
        if (!port.log_path.empty()) {
            extras.writable_directories.push_back(directory_of(port.log_path));
        }
        if (port.backend == Backend::kFile) {
            extras.writable_directories.push_back(directory_of(port.path));
        } else if (!port.path.empty()) {
            extras.removable_directories.push_back(directory_of(port.path));
        }
    }
    return extras;
}

}  // namespace

const DeviceProgram& console_program() {
    static constexpr DeviceProgram kProgram{
        .name = "outrigger-console",
        .type = "console",
        .summary = "A vhost-user back end that serves a virtio console with named ports",
        .options = kOptions,
        .capabilities = {},
        .create_device = create_device,
        .create_kept_device = create_kept_device,
        .check_options = check_options,
        .activated_sockets = activated_sockets,
        .sandbox = kConsoleSandbox,
        .sandbox_extras = sandbox_extras,
        .can_go_on = can_go_on,
    };
    return kProgram;
}

}  // namespace outrigger::console
