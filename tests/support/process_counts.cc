// SPDX-License-Identifier: Apache-2.0
#include "tests/support/process_counts.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include <unistd.h>

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

std::string folder_of(pid_t process) {
    return "/proc/" + std::to_string(process) + "/";
}

template <class Visit>
void for_each_entry(const std::string& folder, Visit visit) {
    std::error_code ended;
    for (fs::directory_iterator entry(folder, ended), end; !ended && entry != end;
         entry.increment(ended)) {
        visit(*entry);
    }
}

template <class Visit>
void for_each_line(const std::string& path, Visit visit) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        visit(line);
    }
}

bool contains(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const ProcessCounts& counts) {
    return out << counts.descriptors << " descriptors (" << counts.io_urings << " io_urings, "
               << counts.shared_memories << " shared memories), " << counts.memory_mappings
               << " mappings of guest memory, " << counts.threads << " threads";
}

ProcessCounts ProcessCounts::now() {
    return of(::getpid());
}

ProcessCounts ProcessCounts::of(pid_t process) {
    ProcessCounts counts;
    for_each_entry(folder_of(process) + "fd", [&](const fs::directory_entry& entry) {
        std::error_code closed_meanwhile;
        const std::string target = fs::read_symlink(entry.path(), closed_meanwhile).string();
        ++counts.descriptors;
        counts.io_urings += contains(target, "[io_uring]") ? 1U : 0U;
        counts.shared_memories +=
            contains(target, "/memfd:") || contains(target, "/dev/shm/") ? 1U : 0U;
    });
    for_each_entry(folder_of(process) + "task", [&](const fs::directory_entry& entry) {
        for_each_line(entry.path() / "comm", [&](const std::string& name) {
            counts.threads += name.starts_with("iou-") ? 0U : 1U;
        });
    });
    for_each_line(folder_of(process) + "maps", [&](const std::string& line) {
        counts.memory_mappings += contains(line, "outrigger-ram") ? 1U : 0U;
    });
    return counts;
}

::testing::AssertionResult comes_down_to(const ProcessCounts& before) {
    ProcessCounts now;
    const bool down = eventually([&] {
        now = ProcessCounts::now();
        return now.descriptors <= before.descriptors && now.io_urings <= before.io_urings &&
               now.shared_memories <= before.shared_memories &&
               now.memory_mappings <= before.memory_mappings && now.threads <= before.threads;
    });
    return (down ? ::testing::AssertionSuccess() : ::testing::AssertionFailure())
           << "before: " << before << "\nnow: " << now;
}

size_t mappings_of(pid_t process) {
    size_t count = 0;
    for_each_line(folder_of(process) + "maps", [&](const std::string&) { ++count; });
    return count;
}

ProcessCounts settled_counts_of(pid_t process) {
    ProcessCounts counts = ProcessCounts::of(process);
    (void)eventually([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        const ProcessCounts before = std::exchange(counts, ProcessCounts::of(process));
        return counts == before;
    });
    return counts;
}

size_t own_memory_bytes_of(pid_t process) {
    size_t kibibytes = 0;
    for_each_line(folder_of(process) + "status", [&](const std::string& line) {
        if (line.starts_with("RssAnon:")) {
            kibibytes = std::stoul(line.substr(line.find_first_of("0123456789")));
        }
    });
    return kibibytes * 1024;
}

}  // namespace outrigger::testing
