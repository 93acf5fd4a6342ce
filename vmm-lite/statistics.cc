// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/statistics.h"

#include <numeric>

#include <fmt/format.h>

namespace outrigger::vmm {
namespace {

constexpr std::array<std::string_view, kBootPhases> kPhaseNames = {
    "connected", "loaded", "first_instruction", "init"};

/// "port read" as a JSON name.
std::string member_name(std::string_view name) {
    std::string out(name);
    for (char& c : out) {
        if (c == ' ') {
            c = '_';
        }
    }
    return out;
}

}  // namespace

std::string_view boot_phase_name(BootPhase phase) {
    return kPhaseNames[static_cast<size_t>(phase)];
}

void BootPhases::reach(BootPhase phase) {
    const auto now = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start_);
    const std::lock_guard lock(mutex_);
    auto& reached = reached_[static_cast<size_t>(phase)];
    if (!reached) {
        reached = now;
    }
}

std::optional<std::chrono::microseconds> BootPhases::when(BootPhase phase) const {
    const std::lock_guard lock(mutex_);
    return reached_[static_cast<size_t>(phase)];
}

uint64_t MachineStatistics::guest_exits() const {
    return std::accumulate(exits.begin(), exits.end(), uint64_t{0}) -
           exits[static_cast<size_t>(ExitKind::kInterrupted)];
}

std::string statistics_text(const MachineStatistics& statistics) {
    std::string out = fmt::format("end: {}\nkernel: {}, at {:#x}\nexits to user space: {}\n",
                                  statistics.end,
                                  statistics.kernel_way,
                                  statistics.kernel_address,
                                  statistics.guest_exits());
    for (size_t i = 0; i < kExitKinds; ++i) {
        if (statistics.exits[i] != 0) {
            out += fmt::format(
                "  {:<20}{}\n", exit_kind_name(static_cast<ExitKind>(i)), statistics.exits[i]);
        }
    }
    out += "accesses:\n";
    for (const auto& [name, count] : statistics.accesses) {
        if (count != 0) {
            out += fmt::format("  {:<20}{}\n", name, count);
        }
    }
    out += "boot, ms since the program started:\n";
    for (size_t i = 0; i < kBootPhases; ++i) {
        if (statistics.phases[i]) {
            out += fmt::format("  {:<20}{:.1f}\n",
                               kPhaseNames[i],
                               static_cast<double>(statistics.phases[i]->count()) / 1000);
        }
    }
    return out;
}

std::string statistics_json(const MachineStatistics& statistics) {
    std::string out =
        fmt::format(R"({{"end":"{}","kernel":"{}","kernel_address":{},"exits":{{"guest":{})",
                    statistics.end,
                    statistics.kernel_way,
                    statistics.kernel_address,
                    statistics.guest_exits());
    for (size_t i = 0; i < kExitKinds; ++i) {
        out += fmt::format(R"(,"{}":{})",
                           member_name(exit_kind_name(static_cast<ExitKind>(i))),
                           statistics.exits[i]);
    }
    out += R"(},"accesses":{)";
    std::string_view comma = "";
    for (const auto& [name, count] : statistics.accesses) {
        out += fmt::format(R"({}"{}":{})", comma, member_name(name), count);
        comma = ",";
    }
    out += R"(},"boot_us":{)";
    comma = "";
    for (size_t i = 0; i < kBootPhases; ++i) {
        if (statistics.phases[i]) {
            out +=
                fmt::format(R"({}"{}":{})", comma, kPhaseNames[i], statistics.phases[i]->count());
            comma = ",";
        }
    }
    return out + "}}\n";
}

}  // namespace outrigger::vmm
