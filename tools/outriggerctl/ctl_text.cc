// SPDX-License-Identifier: Apache-2.0
// What outriggerctl says about itself, from its tables.
#include <array>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/daemon/option_text.h"

#include "tools/outriggerctl/ctl_options.h"

namespace outrigger::ctl {
namespace {

constexpr std::string_view kSummary = "asks and changes running Outrigger daemons";

std::string usage_of(const CommandSpec& command) {
    if (command.value_name.empty()) {
        return std::string(command.name);
    }
    if (command.value_repeats && !command.value_optional) {
        return fmt::format("{} {}...", command.name, command.value_name);
    }
    if (command.value_repeats) {
        return fmt::format("{} [{}]...", command.name, command.value_name);
    }
    return command.value_optional ? fmt::format("{} [{}]", command.name, command.value_name)
                                  : fmt::format("{} {}", command.name, command.value_name);
}

std::string roff_commands() {
    std::string out = ".SH COMMANDS\n";
    for (const CommandSpec& command : ctl_commands()) {
        out +=
            fmt::format(".IP \"\\fB{}\\fR\"\n{}.\n", roff(usage_of(command)), roff(command.help));
    }
    return out;
}

}  // namespace

std::string ctl_help_text() {
    std::string out =
        "Usage: outriggerctl --socket=PATH COMMAND [VALUE] [OPTION]...\n"
        "       outriggerctl top [SOCKET]... [OPTION]...\n"
        "       outriggerctl state FILE\n";
    append_wrapped(out, fmt::format("outriggerctl {}.", kSummary), 0);
    out += "\nCommands:\n";
    for (const CommandSpec& command : ctl_commands()) {
        append_wrapped(out, usage_of(command), 2);
        append_wrapped(out, fmt::format("{}.", command.help), 6);
    }
    out += "\nOptions:\n";
    append_option_help(out, ctl_options());
    return out;
}

Result<std::string> ctl_man_page(std::string_view page) {
    std::string options = ".SH OPTIONS\n";
    append_roff_options(options, ctl_options());
    const std::array<std::pair<std::string_view, std::string>, 4> parts = {{
        {"@HEAD@",
         fmt::format(".TH \"outriggerctl\" 1 \"\" \"Outrigger {}\"\n"
                     ".SH NAME\noutriggerctl \\- {}\n"
                     ".SH SYNOPSIS\n"
                     ".B outriggerctl\n\\fB\\-\\-socket\\fR=\\fIPATH\\fR \\fICOMMAND\\fR "
                     "[\\fIVALUE\\fR] [\\fIOPTION\\fR]...\n"
                     ".br\n.B outriggerctl\ntop [\\fISOCKET\\fR]... [\\fIOPTION\\fR]...\n"
                     ".br\n.B outriggerctl\nstate \\fIFILE\\fR\n",
                     OUTRIGGER_VERSION,
                     kSummary)},
        {"@COMMANDS@", roff_commands()},
        {"@OPTIONS@", options},
        {"@TAIL@",
         ".SH SIGNALS\n"
         "The usual ones end the program at once; what was asked for goes on.\n"
         ".SH EXIT STATUS\n"
         ".TP\n0\nwhen the daemon did what it was asked for\n"
         ".TP\n1\nwhen it could not be asked, or refused\n"
         ".TP\n2\nwhen the command line is wrong; nothing was connected to\n"
         ".TP\n3\nwhen \\fBtake\\-over\\fR, \\fBadd\\fR or \\fBremove\\fR went back to what "
         "served before\n"},
    }};
    return fill_man_page(page, parts);
}

}  // namespace outrigger::ctl
