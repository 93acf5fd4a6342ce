// SPDX-License-Identifier: Apache-2.0
// What "top" shows.
#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "tools/outriggerctl/top.h"

namespace outrigger::ctl {
namespace {

std::string device_line(const DeviceRates& device) {
    return fmt::format("{} ({}, {}, {}): busy {:.0f} %, looking {:.0f} %",
                       device.name,
                       device.type,
                       device.socket,
                       device.connected ? "connected" : "waiting",
                       100 * device.busy,
                       100 * device.polling);
}

std::string queue_line(const QueueRates& queue) {
    return fmt::format("  {:>5} {:>8} {:>8} {:>6} {:>6.1f} {:>8} {:>8}  {:>8} {:>8} {:>8}",
                       queue.queue,
                       short_number(queue.requests),
                       short_number(queue.bytes),
                       queue.in_flight,
                       queue.batch,
                       short_number(queue.kicks),
                       short_number(queue.calls),
                       short_time(queue.p50_nanoseconds),
                       short_time(queue.p99_nanoseconds),
                       short_time(queue.p999_nanoseconds));
}

}  // namespace

std::vector<std::string> top_lines(const std::vector<TopEntry>& entries) {
    std::vector<std::string> lines = {
        fmt::format("  {:>5} {:>8} {:>8} {:>6} {:>6} {:>8} {:>8}  {:>8} {:>8} {:>8}",
                    "QUEUE",
                    "REQ/S",
                    "BYTES/S",
                    "DEPTH",
                    "BATCH",
                    "KICK/S",
                    "CALL/S",
                    "P50",
                    "P99",
                    "P99.9")};
    for (const TopEntry& entry : entries) {
        if (!entry.after.program) {
            lines.push_back(fmt::format("{}: {}", entry.socket, entry.after.problem));
            continue;
        }
        for (const DeviceRates& device : rates_between(entry.before, entry.after)) {
            lines.push_back(device_line(device));
            for (const QueueRates& queue : device.queues) {
                lines.push_back(queue_line(queue));
            }
        }
    }
    return lines;
}

std::vector<std::string> fit_lines(std::vector<std::string> lines, size_t rows, size_t columns) {
    if (lines.size() > rows && rows > 0) {
        const size_t hidden = lines.size() - (rows - 1);
        lines.resize(rows - 1);
        lines.push_back(fmt::format("and {} more", hidden));
    }
    for (std::string& line : lines) {
        // Texts of daemons are printable ASCII by now, and ours are.
        line.resize(std::min(line.size(), columns));
    }
    return lines;
}

}  // namespace outrigger::ctl
