// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/program_text.h"

#include <array>
#include <span>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/daemon/common_options.h"
#include "vhost-user-backend/daemon/option_text.h"

namespace outrigger {
namespace {

struct Section {
    std::string_view title;
    std::span<const OptionSpec> options;
};

std::array<Section, 3> sections(const DeviceProgram& program) {
    return {{{"Device options", program.options},
             {"Socket and threads", device_common_options()},
             {"Process", process_options()}}};
}

std::string roff_head(const DeviceProgram& program) {
    const std::string name = roff(program.name);
    return fmt::format(
        ".TH \"{0}\" 1 \"\" \"Outrigger {1}\"\n"
        ".SH NAME\n{0} \\- {2}\n"
        ".SH SYNOPSIS\n"
        ".B {0}\n\\fB\\-\\-socket\\-path\\fR=\\fIPATH\\fR [\\fIOPTION\\fR]...\n"
        ".br\n"
        ".B {0}\n\\fB\\-\\-device\\fR \\fIKEY\\fR=\\fIVALUE\\fR,... [\\fIOPTION\\fR]...\n",
        name,
        OUTRIGGER_VERSION,
        roff(program.summary));
}

std::string roff_options(const DeviceProgram& program) {
    std::string out = ".SH OPTIONS\n";
    for (const Section& section : sections(program)) {
        out += fmt::format(".SS {}\n", section.title);
        append_roff_options(out, section.options);
    }
    return out;
}

std::string roff_tail() {
    return ".SH SIGNALS\n"
           "SIGTERM and SIGINT end the program: sessions are closed, requests in flight are "
           "finished, the socket is removed.\n"
           "What takes longer than 800 milliseconds is left behind.\n"
           "So is a socket in a directory where the user of the program may not remove files (the "
           "sandbox takes root's capabilities, too), or where the kernel has no Landlock: the log "
           "says so, and the next start replaces it.\n"
           ".PP\n"
           "Unless \\fB\\-\\-keeper\\fR says otherwise, the process that is started is a small "
           "one, the "
           "keeper, and the one that serves is its child.\n"
           "Signals are for the keeper, which passes them on; when something else kills its child, "
           "it "
           "starts another one, which goes on with all sessions.\n"
           "SIGUSR2 has it go on with the binary that lies at the path of its own by now, as "
           "\\fB\\-\\-take\\-over\\fR does with another one.\n"
           "SIGHUP has it read the file of \\fB\\-\\-config\\fR again, where there is one; "
           "else it is passed on.\n"
           ".SH EXIT STATUS\n"
           ".TP\n0\nafter SIGTERM or SIGINT, or the last disconnect with "
           "\\fB\\-\\-exit\\-on\\-disconnect\\fR\n"
           ".TP\n1\nwhen something failed\n"
           ".TP\n2\nwhen the command line is wrong; nothing was opened or created\n";
}

}  // namespace

std::string help_text(const DeviceProgram& program) {
    std::string out = "Usage: ";
    out.append(program.name).append(" --socket-path=PATH [OPTION]...\n");
    append_wrapped(out, std::string(program.summary) + ".", 0);
    for (const Section& section : sections(program)) {
        if (!section.options.empty()) {
            out.append("\n").append(section.title).append(":\n");
        }
        append_option_help(out, section.options);
    }
    return out;
}

std::string version_text(const DeviceProgram& program) {
    return fmt::format("{} {}\n", program.name, OUTRIGGER_VERSION);
}

std::string capabilities_text(const DeviceProgram& program) {
    // Names in these tables are plain words: nothing needs escaping.
    std::string out = fmt::format("{{\"type\": \"{}\", \"features\": [", program.type);
    for (const std::string_view& feature : program.capabilities) {
        out.append(out.ends_with('[') ? "\"" : ", \"").append(feature).append("\"");
    }
    return out + "]}\n";
}

Result<std::string> man_page_text(const DeviceProgram& program, std::string_view page) {
    const std::array<std::pair<std::string_view, std::string>, 3> parts = {{
        {"@HEAD@", roff_head(program)},
        {"@OPTIONS@", roff_options(program)},
        {"@TAIL@", roff_tail()},
    }};
    return fill_man_page(page, parts);
}

}  // namespace outrigger
