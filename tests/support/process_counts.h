// SPDX-License-Identifier: Apache-2.0
/// What a leak would add to: this process's descriptors, guest memory mappings and threads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>

namespace outrigger::testing {

struct ProcessCounts {
    size_t descriptors = 0;
    size_t memory_mappings = 0;  ///< of files that the driver's GuestMemory made
    size_t threads = 0;

    friend bool operator==(const ProcessCounts&, const ProcessCounts&) = default;

    [[nodiscard]] static ProcessCounts now() {
        ProcessCounts counts;
        counts.descriptors = entries("/proc/self/fd");
        counts.threads = entries("/proc/self/task");
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);) {
            if (line.find("outrigger-ram") != std::string::npos) {
                ++counts.memory_mappings;
            }
        }
        return counts;
    }

  private:
    static size_t entries(const char* folder) {
        size_t count = 0;
        for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) {
            ++count;
        }
        return count;
    }
};

}  // namespace outrigger::testing
