// SPDX-License-Identifier: Apache-2.0
/// vmm-lite: runs a virtual machine by KVM, whose devices are vhost-user daemons.
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/log.h"

#include "vmm-lite/check.h"
#include "vmm-lite/control/operator_client.h"
#include "vmm-lite/exit_status.h"
#include "vmm-lite/machine.h"
#include "vmm-lite/machine_options.h"

namespace outrigger::vmm {
namespace {

int complain(const std::string& what) {
    std::fprintf(stderr, "vmm-lite: %s\n", what.c_str());
    return exit_status(MachineEnd::kBadConfig);
}

int print_man_page(const std::string& path) {
    std::ifstream file(path);
    const std::string page((std::istreambuf_iterator<char>(file)), {});
    const auto text = machine_man_page(page);
    if (!text) {
        return complain(path + ": " + text.error().message);
    }
    std::fputs(text->c_str(), stdout);
    return 0;
}

int run_machine(const MachineOptions& options, BootPhases::Clock::time_point started) {
    Machine machine(options, started);
    const MachineEnd end = machine.run();
    switch (options.statistics) {
        case MachineOptions::Statistics::kOff:
            break;
        case MachineOptions::Statistics::kText:
            std::fputs(statistics_text(machine.statistics()).c_str(), stderr);
            break;
        case MachineOptions::Statistics::kJson:
            std::fputs(statistics_json(machine.statistics()).c_str(), stderr);
            break;
    }
    return exit_status(end);
}

int run(std::span<const char* const> arguments, BootPhases::Clock::time_point started) {
    if (!arguments.empty() && std::string_view(arguments.front()) == "ctl") {
        return run_ctl(arguments.subspan(1));
    }
    const auto options = parse_machine_options(arguments);
    if (!options) {
        return complain(options.error().message);
    }
    set_log_level(options->log_level);
    switch (options->action) {
        case MachineOptions::Action::kHelp:
            std::fputs(machine_help_text().c_str(), stdout);
            return 0;
        case MachineOptions::Action::kVersion:
            std::puts("vmm-lite " OUTRIGGER_VERSION);
            return 0;
        case MachineOptions::Action::kManPage:
            return print_man_page(options->man_page_template);
        case MachineOptions::Action::kCheck:
            return check_host();
        case MachineOptions::Action::kRun:
            break;
    }
    return run_machine(*options, started);
}

}  // namespace
}  // namespace outrigger::vmm

int main(int argc, char** argv) {
    const auto started = outrigger::vmm::BootPhases::Clock::now();
    // A back end that is gone is an error of a write.
    std::signal(SIGPIPE, SIG_IGN);
    try {
        return outrigger::vmm::run(std::span(argv, static_cast<size_t>(argc)).subspan(1), started);
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "vmm-lite: %s\n", problem.what());
        return outrigger::vmm::exit_status(outrigger::vmm::MachineEnd::kFailure);
    }
}
