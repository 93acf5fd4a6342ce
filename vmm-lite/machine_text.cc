// SPDX-License-Identifier: Apache-2.0
// What vmm-lite says about itself, from its option table.
#include <array>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/daemon/option_text.h"

#include "vmm-lite/exit_status.h"
#include "vmm-lite/machine_options.h"

namespace outrigger::vmm {

std::string machine_help_text() {
    std::string out = "Usage: vmm-lite --kernel=FILE [OPTION]...\n";
    append_wrapped(out, "Runs a virtual machine by KVM, whose devices are vhost-user daemons.", 0);
    out += "\nOptions:\n";
    append_option_help(out, machine_option_table());
    return out;
}

Result<std::string> machine_man_page(std::string_view page) {
    std::string options = ".SH OPTIONS\n";
    append_roff_options(options, machine_option_table());
    constexpr std::array<std::pair<MachineEnd, std::string_view>, 8> kEnds = {{
        {MachineEnd::kPowerOff, "the guest switched itself off"},
        {MachineEnd::kFailure, "the host failed: KVM, its memory, its descriptors"},
        {MachineEnd::kBadConfig,
         "an option, the kernel or the initrd cannot be used; nothing has run"},
        {MachineEnd::kReset, "the guest restarts: run vmm\\-lite again"},
        {MachineEnd::kPanic, "the guest restarts without having shut down: a panic"},
        {MachineEnd::kTripleFault, "the guest's processor gave up"},
        {MachineEnd::kBackendLost,
         "a back end was not there at the start, or went and was not found again"},
        {MachineEnd::kStopped, "a signal stopped the machine"},
    }};
    std::string statuses;
    for (const auto& [end, text] : kEnds) {
        statuses += fmt::format(".TP\n{}\n{}\n", exit_status(end), text);
    }
    const std::array<std::pair<std::string_view, std::string>, 3> parts = {{
        {"@HEAD@",
         fmt::format(".TH \"vmm\\-lite\" 1 \"\" \"Outrigger {}\"\n"
                     ".SH NAME\nvmm\\-lite \\- runs a virtual machine with vhost\\-user devices\n"
                     ".SH SYNOPSIS\n"
                     ".B vmm\\-lite\n"
                     "\\fB\\-\\-kernel\\fR=\\fIFILE\\fR [\\fIOPTION\\fR]...\n"
                     ".br\n.B vmm\\-lite \\-\\-check\n",
                     OUTRIGGER_VERSION)},
        {"@OPTIONS@", options},
        {"@TAIL@",
         ".SH SIGNALS\n"
         "SIGTERM, SIGINT and SIGHUP stop the machine at once, as if its power was cut.\n"
         ".SH EXIT STATUS\n" +
             statuses},
    }};
    return fill_man_page(page, parts);
}

}  // namespace outrigger::vmm
