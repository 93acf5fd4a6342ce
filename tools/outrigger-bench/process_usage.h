// SPDX-License-Identifier: Apache-2.0
/// What processes use of the machine: processor time, and who is at the other end of a socket.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger::bench {

/// Seconds of processor time, user and system, that all threads of the process have used so far.
[[nodiscard]] Result<double> cpu_seconds(pid_t pid);

/// The process that listened on the socket which `socket` is connected to. Nullopt when this one
/// cannot see it.
[[nodiscard]] std::optional<pid_t> peer_process(int socket);

/// Each process once: two disks may be of one daemon. Nullopt when one of them is not known.
[[nodiscard]] std::optional<std::vector<pid_t>> distinct_processes(
    std::span<const std::optional<pid_t>> processes);

/// Seconds of processor time that all processes of the machine have used so far, what the host of
/// a virtual machine gave to others included. Nullopt where nobody says.
[[nodiscard]] std::optional<double> machine_seconds();

/// The ticks in the first line of /proc/stat that were not idle. Nullopt when it is none.
[[nodiscard]] std::optional<double> busy_ticks(std::string_view text);

}  // namespace outrigger::bench
