// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/device_program.h"

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>

#include "vhost-user-backend/daemon/command_line.h"
#include "vhost-user-backend/daemon/daemon.h"
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

int serve(const DeviceProgram& program, const CommandLine& line) {
    Daemon daemon(program, line);
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
            return serve(program, *line);
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
