// SPDX-License-Identifier: Apache-2.0
/// Runs scripts without libFuzzer: `fuzz-replay-TARGET FILE-OR-FOLDER...`. Every build has it, so
/// that the committed scripts run under each compiler and sanitizer, and a crash is debugged there.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "tests/fuzz/target.h"

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> scripts_in(const fs::path& place) {
    if (!fs::is_directory(place)) {
        return {place};
    }
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(place)) {
        if (entry.is_regular_file()) {
            found.push_back(entry.path());
        }
    }
    std::ranges::sort(found);
    return found;
}

bool run(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        (void)std::fprintf(stderr, "cannot read %s\n", path.c_str());
        return false;
    }
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    // Printed first: who reads the log of a crash wants to know which script it was.
    (void)std::fprintf(stderr, "%s: %zu bytes\n", path.c_str(), bytes.size());
    const std::vector<uint8_t> script(bytes.begin(), bytes.end());
    return LLVMFuzzerTestOneInput(script.data(), script.size()) == 0;
}

}  // namespace

int main(int argument_count, char** arguments) {
    size_t ran = 0;
    bool good = true;
    for (int i = 1; i < argument_count; ++i) {
        for (const fs::path& path : scripts_in(arguments[i])) {
            good = run(path) && good;
            ++ran;
        }
    }
    if (ran == 0) {
        (void)std::fprintf(stderr, "usage: %s FILE-OR-FOLDER...\nno script ran\n", arguments[0]);
        return 2;
    }
    return good ? 0 : 1;
}
