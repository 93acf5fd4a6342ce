// SPDX-License-Identifier: Apache-2.0
// --attach: a terminal, or whatever standard input and output are, at the Unix socket of a port.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/escape_key.h"
#include "vhost-user-backend/base/terminal_attachment.h"
#include "vhost-user-backend/daemon/option_parser.h"
#include "vhost-user-backend/daemon/option_table.h"

#include "devices/console/console_program.h"
#include "devices/console/port_options.h"

namespace outrigger::console {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

struct AttachSettings {
    std::string path{};
    std::optional<std::byte> escape{};  ///< nullopt: no key ends it
};

int fail(const Error& error, int status) {
    (void)std::fputs(("outrigger-console: " + error.message + "\n").c_str(), stderr);
    return status;
}

Result<AttachSettings> parse_attach(std::span<const char* const> arguments) {
    std::vector<const OptionSpec*> table;
    for (const OptionSpec& spec : console_program().options) {
        table.push_back(&spec);
    }
    AttachSettings settings{.escape = OUTRIGGER_TRY(parse_escape_key("^]"))};
    for (const GivenOption& option : OUTRIGGER_TRY(split_arguments(arguments, table))) {
        OptionValues checked;
        OUTRIGGER_TRY(checked.set(*option.spec, option.text));
        if (option.spec->name == "attach") {
            settings.path = option.text;
        } else if (option.spec->name == "escape") {
            settings.escape = OUTRIGGER_TRY(parse_escape_key(option.text));
        } else {
            return failure(Error{.message = "--" + std::string(option.spec->name) +
                                            " does not go with --attach"});
        }
    }
    return settings;
}

}  // namespace

bool asks_to_attach(std::span<const char* const> arguments) {
    return std::ranges::any_of(arguments, [](std::string_view argument) {
        return argument == "--attach" || argument.starts_with("--attach=");
    });
}

int run_attach(std::span<const char* const> arguments) {
    const auto settings = parse_attach(arguments);
    if (!settings) {
        return fail({.message = settings.error().message + " (see --help)"}, kExitUsage);
    }
    const auto attached = attach_terminal(
        {.path = settings->path, .size_path = size_socket_path(settings->path)}, settings->escape);
    return attached ? 0 : fail(attached.error(), kExitFailure);
}

}  // namespace outrigger::console
