// SPDX-License-Identifier: Apache-2.0
// What outrigger-bench says about itself, from its option table.
#include <array>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/daemon/option_text.h"

#include "tools/outrigger-bench/bench_options.h"

namespace outrigger::bench {
namespace {

/// The names of all workloads, with that between them.
std::string join_workloads(std::string_view between) {
    std::string text;
    for (const std::string_view name : workload_names()) {
        text += text.empty() ? "" : between;
        text += name;
    }
    return text;
}

}  // namespace

std::string bench_help_text() {
    std::string out = fmt::format("Usage: outrigger-bench {} --a=SOCKET [--b=SOCKET] [OPTION]...\n",
                                  join_workloads("|"));
    append_wrapped(
        out, "Measures one vhost-user back end, or two in turn, with a driver of its own.", 0);
    out += "\nOptions:\n";
    append_option_help(out, bench_options());
    return out;
}

Result<std::string> bench_man_page(std::string_view page) {
    std::string options = ".SH OPTIONS\n";
    append_roff_options(options, bench_options());
    const std::array<std::pair<std::string_view, std::string>, 3> parts = {{
        {"@HEAD@",
         fmt::format(".TH \"outrigger\\-bench\" 1 \"\" \"Outrigger {}\"\n"
                     ".SH NAME\noutrigger\\-bench \\- measures vhost\\-user back ends\n"
                     ".SH SYNOPSIS\n"
                     ".B outrigger\\-bench\n"
                     "\\fB{}\\fR \\fB\\-\\-a\\fR=\\fISOCKET\\fR "
                     "[\\fB\\-\\-b\\fR=\\fISOCKET\\fR] [\\fIOPTION\\fR]...\n",
                     OUTRIGGER_VERSION,
                     join_workloads("\\fR|\\fB"))},
        {"@OPTIONS@", options},
        {"@TAIL@",
         ".SH SIGNALS\n"
         "The usual ones end the program at once; the back end sees a front end that hangs up,\n"
         "and the file of \\-\\-verify\\-state is not written.\n"
         ".SH EXIT STATUS\n"
         ".TP\n0\nwhen everything was measured\n"
         ".TP\n1\nwhen a back end was lost, failed a request or held the wrong data\n"
         ".TP\n2\nwhen the command line is wrong; nothing was connected to\n"},
    }};
    return fill_man_page(page, parts);
}

}  // namespace outrigger::bench
