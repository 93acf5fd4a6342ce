// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/process_usage.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include <sys/socket.h>
#include <unistd.h>

namespace outrigger::bench {

Result<double> cpu_seconds(pid_t pid) {
    clockid_t clock{};
    timespec time{};
    int code = ::clock_getcpuclockid(pid, &clock);
    if (code == 0) {
        code = ::clock_gettime(clock, &time) == 0 ? 0 : errno;
    }
    if (code != 0) {
        return failure(
            error_from_code("the processor time of process " + std::to_string(pid), code));
    }
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::optional<pid_t> peer_process(int socket) {
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
        return std::nullopt;
    }
    return peer.pid;
}

std::optional<std::vector<pid_t>> distinct_processes(
    std::span<const std::optional<pid_t>> processes) {
    std::vector<pid_t> distinct;
    for (const std::optional<pid_t>& process : processes) {
        if (!process) {
            return std::nullopt;
        }
        if (std::ranges::find(distinct, *process) == distinct.end()) {
            distinct.push_back(*process);
        }
    }
    return distinct;
}

std::optional<double> busy_ticks(std::string_view text) {
    std::istringstream fields{std::string(text.substr(0, text.find('\n')))};
    std::string name;
    // user, nice, system, idle, iowait, irq, softirq, steal
    std::array<double, 8> ticks{};
    fields >> name;
    for (double& value : ticks) {
        fields >> value;
    }
    if (!fields || name != "cpu") {
        return std::nullopt;
    }
    return ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7];
}

std::optional<double> machine_seconds() {
    std::ifstream file("/proc/stat");
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto ticks = busy_ticks(text);
    return ticks ? std::optional(*ticks / static_cast<double>(::sysconf(_SC_CLK_TCK)))
                 : std::nullopt;
}

}  // namespace outrigger::bench
