// SPDX-License-Identifier: Apache-2.0
/// What a process sees of the file system, which the sandbox makes small.
#pragma once

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>

#include <sys/types.h>

namespace outrigger::testing {

/// The names that process `pid` sees in `folder`; it takes root to ask. The directories that lead
/// to our working directory, which is the process's, too, are there, and empty.
inline std::set<std::string> names_shown_to(pid_t pid, const std::filesystem::path& folder) {
    const std::filesystem::path root = "/proc/" + std::to_string(pid) + "/root";
    std::set<std::string> names;
    for (const auto& each : std::filesystem::directory_iterator(root / folder.relative_path())) {
        names.insert(each.path().filename());
    }
    const std::filesystem::path ours = std::filesystem::current_path();
    const auto [in_folder, in_ours] =
        std::mismatch(folder.begin(), folder.end(), ours.begin(), ours.end());
    if (in_folder == folder.end() && in_ours != ours.end()) {
        names.erase(*in_ours);
    }
    return names;
}

}  // namespace outrigger::testing
