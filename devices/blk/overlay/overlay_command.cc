// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/overlay_command.h"

#include <algorithm>
#include <cstdio>
#include <string_view>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

struct Command {
    std::string_view name;
    Result<std::string> (*run)(const LayerCommand& command);
    std::string_view help;
};

constexpr Command kCommands[] = {
    {"info", describe_layer, "Print what the layer is, what it was made over, and how full it is"},
    {"check", check_layer, "Say whether the layer is whole, and fail when it is damaged"},
    {"commit",
     commit_layer,
     "Write what the layer holds to its base, a raw image, and empty it; what is interrupted goes "
     "on when it is run again"},
    {"discard", discard_layer, "Empty the layer: the disk is its base again"},
};

std::string help_text() {
    std::string text =
        "usage: outrigger-blk overlay COMMAND LAYER [OPTION]...\n"
        "Works on the layer of an overlay that nobody has open.\n\nCommands:\n";
    for (const Command& command : kCommands) {
        text += fmt::format("  {:<9}{}\n", command.name, command.help);
    }
    text +=
        "\nOptions:\n"
        "  --base=PATH    commit: the base, when it is not where it was\n"
        "  --accept-base  commit: also to a base that is not as it was\n"
        "  --lock=off     do not refuse what another process uses\n"
        "  --help         this text\n"
        "\nExit status: 0; 1 when something failed or is damaged, 2 for a wrong command line.\n";
    return text;
}

int fail(std::string_view message, int status) {
    const std::string line = fmt::format("outrigger-blk: {}\n", message);
    (void)std::fputs(line.c_str(), stderr);
    return status;
}

int print(const std::string& text) {
    const bool printed = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
    return printed ? 0 : fail(error_from_errno("cannot write to stdout").message, kExitFailure);
}

/// False for an argument that is none of ours.
bool take_argument(std::string_view argument, LayerCommand& command) {
    constexpr std::string_view kBase = "--base=";
    if (argument.starts_with(kBase) && argument.size() > kBase.size()) {
        command.base = argument.substr(kBase.size());
    } else if (argument == "--accept-base") {
        command.accept_base = true;
    } else if (argument == "--lock=off") {
        command.lock = false;
    } else if (!argument.starts_with("-") && !argument.empty() && command.layer.empty()) {
        command.layer = argument;
    } else {
        return false;
    }
    return true;
}

}  // namespace

int run_overlay_command(std::span<char* const> arguments) {
    if (std::ranges::any_of(arguments,
                            [](std::string_view argument) { return argument == "--help"; })) {
        return print(help_text());
    }
    const std::string_view name = arguments.empty() ? "" : arguments.front();
    const auto found = std::ranges::find(kCommands, name, &Command::name);
    if (found == std::end(kCommands)) {
        return fail("overlay takes info, check, commit or discard (see overlay --help)",
                    kExitUsage);
    }
    LayerCommand command;
    for (const std::string_view argument : arguments.subspan(1)) {
        if (!take_argument(argument, command)) {
            return fail(
                fmt::format("overlay {} cannot use '{}' (see overlay --help)", name, argument),
                kExitUsage);
        }
    }
    if (command.layer.empty()) {
        return fail(fmt::format("overlay {} needs the path of a layer", name), kExitUsage);
    }
    if (name != "commit" && (!command.base.empty() || command.accept_base)) {
        return fail("--base and --accept-base go with overlay commit only", kExitUsage);
    }
    const auto outcome = found->run(command);
    return outcome ? print(*outcome) : fail(outcome.error().message, kExitFailure);
}

}  // namespace outrigger::blk
