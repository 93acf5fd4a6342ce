// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/system_calls.h"

#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace outrigger::bench {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// The number of the trace point at the entry of every system call.
std::optional<uint64_t> trace_point_id() {
    for (const std::string_view root : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
        std::ifstream file(std::string(root) + "/events/raw_syscalls/sys_enter/id");
        uint64_t id = 0;
        if (file >> id) {
            return id;
        }
    }
    return std::nullopt;
}

std::vector<pid_t> threads_of(pid_t pid) {
    std::vector<pid_t> threads;
    std::error_code error;
    fs::directory_iterator entry("/proc/" + std::to_string(pid) + "/task", error);
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
        const std::string name = entry->path().filename();
        pid_t thread = 0;
        const auto [rest, wrong] = std::from_chars(name.data(), name.data() + name.size(), thread);
        if (wrong == std::errc()) {
            threads.push_back(thread);
        }
    }
    return threads;
}

UniqueFd open_trace_point(uint64_t id, pid_t thread) {
    perf_event_attr attributes{};
    attributes.type = PERF_TYPE_TRACEPOINT;
    attributes.size = sizeof attributes;
    attributes.config = id;
    attributes.inherit = 1;
    return UniqueFd(static_cast<int>(
        ::syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC)));
}

std::optional<uint64_t> transfers_of(pid_t pid) {
    return transfers_of_io(read_file("/proc/" + std::to_string(pid) + "/io"));
}

}  // namespace

std::optional<uint64_t> transfers_of_io(std::string_view text) {
    std::istringstream lines{std::string(text)};
    uint64_t sum = 0;
    int found = 0;
    std::string name;
    uint64_t value = 0;
    while (lines >> name >> value) {
        if (name == "syscr:" || name == "syscw:") {
            sum += value;
            ++found;
        }
    }
    return found == 2 ? std::optional(sum) : std::nullopt;
}

SystemCallCounter::SystemCallCounter(pid_t pid) : pid_(pid) {
    if (!open_trace_points()) {
        trace_points_.clear();
        transfers_before_ = transfers_of(pid);
    }
}

bool SystemCallCounter::open_trace_points() {
    const auto id = trace_point_id();
    if (!id) {
        return false;
    }
    for (const pid_t thread : threads_of(pid_)) {
        trace_points_.push_back(open_trace_point(*id, thread));
        if (!trace_points_.back().valid()) {
            return false;
        }
    }
    return !trace_points_.empty();
}

std::optional<CallCount> SystemCallCounter::count() const {
    if (trace_points_.empty()) {
        const auto transfers = transfers_of(pid_);
        if (!transfers || !transfers_before_ || *transfers < *transfers_before_) {
            return std::nullopt;
        }
        return CallCount{.scope = CallScope::kReadsAndWrites,
                         .calls = *transfers - *transfers_before_};
    }
    uint64_t sum = 0;
    for (const UniqueFd& point : trace_points_) {
        uint64_t calls = 0;
        if (::read(point.get(), &calls, sizeof calls) != sizeof calls) {
            return std::nullopt;
        }
        sum += calls;
    }
    return CallCount{.scope = CallScope::kAll, .calls = sum};
}

}  // namespace outrigger::bench
