// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/device_program.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/command_line.h"
#include "vhost-user-backend/daemon/daemon.h"
#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/daemon/keeper.h"
#include "vhost-user-backend/daemon/program_text.h"

namespace outrigger {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

int fail(const DeviceProgram& program, const Error& error) {
    const std::string line = std::string(program.name) + ": " + error.message + "\n";
    std::fputs(line.c_str(), stderr);
    return kExitFailure;
}

int print(const DeviceProgram& program, const std::string& text) {
    if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
        return fail(program, error_from_errno("cannot write to stdout"));
    }
    return 0;
}

int print_man_page(const DeviceProgram& program, const std::string& path) {
    std::ifstream file(path);
    const std::string page{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const auto text = man_page_text(program, page);
    return text ? print(program, *text)
                : fail(program, Error{.message = path + ": " + text.error().message});
}

/// Sockets that the program makes, for its keeper.
std::vector<KeeperSettings::SocketPath> socket_paths(const CommandLine& line) {
    std::vector<KeeperSettings::SocketPath> paths;
    const auto add = [&](const std::string& path, const std::string& key) {
        if (!path.empty()) {
            paths.push_back({.path = path, .file_name = Daemon::listener_names(key).file});
        }
    };
    for (const DeviceSettings& device : line.devices) {
        add(device.socket_path, device.key);
    }
    add(line.control.socket_path, line.control.key);
    add(line.metrics.path, line.metrics.key);
    return paths;
}

/// What listens each program is passed anew: it is the service manager's, which has it open, too.
KeeperSettings::Named named_by(const CommandLine& line) {
    KeeperSettings::Named named{.socket_paths = socket_paths(line), .inherited = line.inherited};
    std::ranges::copy(activated_connections(), std::back_inserter(named.inherited));
    return named;
}

/// What a keeper process is to know. `arguments` with the program's name.
KeeperSettings keeper_settings(const DeviceProgram& program,
                               const CommandLine& line,
                               std::span<char* const> arguments) {
    KeeperSettings settings{.program = program.name,
                            .restarts_max = line.keeper_restarts,
                            .is_confined = line.sandbox != SandboxMode::kNone,
                            .needed_calls = program.keeper_calls,
                            .arguments = {arguments.begin(), arguments.end()},
                            .named = named_by(line),
                            .config_path = line.config_path};
    settings.named_with = [&program, arguments](const std::string& config_text) {
        const auto with =
            parse_command_line(arguments.subspan(arguments.empty() ? 0 : 1), program, config_text);
        if (!with) {
            return KeeperSettings::Named();
        }
        note_activated_sockets(with->activated, with->inherited, Unnamed::kLeft);
        return named_by(*with);
    };
    return settings;
}

/// $FDSTORE is how many descriptors systemd keeps for the service (254 and later say so).
KeeperKind choose_keeper(const DeviceProgram& program, const CommandLine& line) {
    if (line.keeper != KeeperKind::kAuto) {
        return line.keeper;
    }
    const auto does_without = [&](const DeviceSettings& device) {
        return program.has_keeper_unasked != nullptr && !program.has_keeper_unasked(device.values);
    };
    if (std::ranges::any_of(line.devices, does_without)) {
        return KeeperKind::kNone;
    }
    const char* const kept = std::getenv("FDSTORE");
    const bool has_store =
        std::getenv("NOTIFY_SOCKET") != nullptr && kept != nullptr && std::string_view(kept) != "0";
    return has_store ? KeeperKind::kSystemd : KeeperKind::kFork;
}

/// Why nobody is to start the program again; empty when there is no reason.
std::string obstacle(const DeviceProgram& program, const CommandLine& line) {
    for (const DeviceSettings& device : line.devices) {
        if (program.can_go_on != nullptr && !program.can_go_on(device.values)) {
            return "what a device holds in memory ends with the process: use --keeper=none";
        }
    }
    return {};
}

Result<void> check_keeper(const DeviceProgram& program, const CommandLine& line) {
    std::string reason = obstacle(program, line);
    if (!reason.empty() &&
        (line.keeper == KeeperKind::kFork || line.keeper == KeeperKind::kSystemd)) {
        return failure(Error{.message = std::move(reason)});
    }
    return {};
}

/// Of passed descriptors that no option names. With --config the next program may name them.
Unnamed what_becomes_of_unnamed(KeeperKind keeper, const CommandLine& line) {
    if (keeper != KeeperKind::kFork) {
        return keeper == KeeperKind::kSystemd ? Unnamed::kClosedButStored : Unnamed::kClosed;
    }
    return line.config_path.empty() ? Unnamed::kReserved : Unnamed::kLeft;
}

int serve(const DeviceProgram& program, const CommandLine& line, std::span<char* const> arguments) {
    Result<std::unique_ptr<DescriptorStore>> store;
    if (std::getenv(DescriptorStore::kChannelVariable) != nullptr) {
        note_activated_sockets(line.activated, line.inherited, Unnamed::kClosed);
        // Older kernels call what is started by a descriptor by its number.
        platform::name_this_thread(std::string(program.name));
        store = DescriptorStore::from_parent();
    } else {
        if (const auto checked = check_keeper(program, line); !checked) {
            (void)fail(program, checked.error());
            return kExitUsage;
        }
        const KeeperKind keeper =
            obstacle(program, line).empty() ? choose_keeper(program, line) : KeeperKind::kNone;
        note_activated_sockets(
            line.activated, line.inherited, what_becomes_of_unnamed(keeper, line));
        if (const auto checked = check_activated_sockets(line.activated); !checked) {
            (void)fail(program, checked.error());
            return kExitUsage;
        }
        switch (keeper) {
            case KeeperKind::kAuto:
            case KeeperKind::kNone:
                break;
            case KeeperKind::kFork:
                set_log_level(line.log_level);
                return run_keeper(keeper_settings(program, line, arguments));
            case KeeperKind::kSystemd:
                store = DescriptorStore::from_systemd();
                break;
        }
    }
    if (!store) {
        return fail(program, store.error());
    }
    Daemon daemon(program, line, *std::move(store));
    const auto ended = daemon.run();
    return ended ? 0 : fail(program, ended.error());
}

int run(int argc, char** argv, const DeviceProgram& program) {
    // argc can be 0 when a parent leaves even the program's name out.
    const auto count = argc > 0 ? static_cast<size_t>(argc) - 1 : 0;
    const auto line = parse_command_line(std::span(argv + (argc > 0 ? 1 : 0), count), program);
    if (!line) {
        (void)fail(program, Error{.message = line.error().message + " (see --help)"});
        return kExitUsage;
    }
    switch (line->action) {
        case CommandAction::kServe:
            return serve(program, *line, std::span(argv, static_cast<size_t>(argc)));
        case CommandAction::kCheck:
            if (const auto checked = check_keeper(program, *line); !checked) {
                (void)fail(program, checked.error());
                return kExitUsage;
            }
            return 0;
        case CommandAction::kTakeOver:
            set_log_level(line->log_level);
            return take_over(program.name, line->take_over_pid);
        case CommandAction::kHelp:
            return print(program, help_text(program));
        case CommandAction::kVersion:
            return print(program, version_text(program));
        case CommandAction::kCapabilities:
            return print(program, capabilities_text(program));
        case CommandAction::kManPage:
            return print_man_page(program, line->man_page_template);
    }
    return kExitFailure;
}

}  // namespace

int run_device_program(int argc, char** argv, const DeviceProgram& program) {
    try {
        return run(argc, argv, program);
    } catch (const std::exception& exception) {
        return fail(program, Error{.message = exception.what()});
    }
}

}  // namespace outrigger
