// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/program_text.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/daemon/common_options.h"

namespace outrigger {
namespace {

constexpr size_t kColumns = 79;
constexpr size_t kIndent = 6;

struct Section {
    std::string_view title;
    std::span<const OptionSpec> options;
};

std::array<Section, 3> sections(const DeviceProgram& program) {
    return {{{"Device options", program.options},
             {"Socket and threads", device_common_options()},
             {"Process", process_options()}}};
}

/// Appends `text` in lines of kColumns, each behind `indent` spaces.
void append_wrapped(std::string& out, std::string_view text, size_t indent) {
    size_t column = 0;
    while (!text.empty()) {
        const size_t length = std::min(text.find(' '), text.size());
        if (column == 0 || column + 1 + length > kColumns) {
            out.append(column == 0 ? "" : "\n").append(indent, ' ');
            column = indent;
        } else {
            out += ' ';
            ++column;
        }
        out += text.substr(0, length);
        column += length;
        text.remove_prefix(std::min(length + 1, text.size()));
    }
    out += '\n';
}

std::string option_usage(const OptionSpec& spec) {
    std::string usage = "--";
    usage += spec.name;
    if (!spec.value_name.empty()) {
        usage.append("=").append(spec.value_name);
    }
    return usage;
}

/// "Look for requests for up to N microseconds [default: 0]."
std::string option_sentence(const OptionSpec& spec) {
    if (spec.default_value.empty()) {
        return fmt::format("{}.", spec.help);
    }
    return fmt::format("{} [default: {}].", spec.help, spec.default_value);
}

/// Text as roff shows it: hyphens that can be copied, no line that looks like a request.
std::string roff(std::string_view text) {
    std::string out;
    for (const char next : text) {
        if (next == '-') {
            out += "\\-";
        } else if (next == '\\') {
            out += "\\e";
        } else {
            if (out.empty() && (next == '.' || next == '\'')) {
                out += "\\&";
            }
            out += next;
        }
    }
    return out;
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
        for (const OptionSpec& spec : section.options) {
            if (spec.hidden) {
                continue;
            }
            out += fmt::format(".TP\n\\fB\\-\\-{}\\fR", roff(spec.name));
            if (!spec.value_name.empty()) {
                out += fmt::format("=\\fI{}\\fR", roff(spec.value_name));
            }
            out += fmt::format("\n{}\n", roff(option_sentence(spec)));
        }
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
        for (const OptionSpec& spec : section.options) {
            if (!spec.hidden) {
                append_wrapped(out, option_usage(spec), 2);
                append_wrapped(out, option_sentence(spec), kIndent);
            }
        }
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
    std::string out(page);
    for (const auto& [line, text] : parts) {
        const size_t at = out.find(line);
        if (at == std::string::npos) {
            return failure(Error{.message = "the man page has no line " +
                                            std::string(line, 0, line.size() - 1)});
        }
        // The line's own end stays, and an empty line would show as space.
        out.replace(at, line.size(), text, 0, text.size() - 1);
    }
    return out;
}

}  // namespace outrigger
