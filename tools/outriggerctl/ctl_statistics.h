// SPDX-License-Identifier: Apache-2.0
/// Queues in numbers: since the start of a daemon, and between two looks at it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <outrigger_control.pb.h>

namespace outrigger::ctl {

/// A look at a daemon, or why there was none.
struct Sample {
    std::chrono::steady_clock::time_point taken_at{};
    std::optional<control::v1::Program> program{};
    std::string problem{};
};

struct QueueRates {
    uint32_t queue = 0;
    double requests = 0;  ///< answered, in a second
    double bytes = 0;
    double kicks = 0;
    double calls = 0;
    double batch = 0;        ///< answers that became visible together
    uint64_t in_flight = 0;  ///< now
    // Of what was answered meanwhile; 0: nothing was, or nobody measured.
    uint64_t p50_nanoseconds = 0;
    uint64_t p99_nanoseconds = 0;
    uint64_t p999_nanoseconds = 0;
};

struct DeviceRates {
    std::string name;
    std::string type;
    std::string socket;
    bool connected = false;
    double busy = 0;  ///< processors that its threads kept at work
    double polling = 0;
    std::vector<QueueRates> queues{};  ///< that run, or did something
};

/// What happened between two looks at one daemon. Where it began to count anew meanwhile, what it
/// has counted since then.
[[nodiscard]] std::vector<DeviceRates> rates_between(const Sample& before, const Sample& after);

/// "stat": a line for each queue that has run, since the daemon's start.
[[nodiscard]] std::string statistics_text(const control::v1::Program& program);

/// "1.23 M", at most six characters: 0, 12.3, 999, 1.23 k.
[[nodiscard]] std::string short_number(double value);

/// "12.3 us", at most seven characters; "-" for 0.
[[nodiscard]] std::string short_time(uint64_t nanoseconds);

}  // namespace outrigger::ctl
