// SPDX-License-Identifier: Apache-2.0
/// Writes the states that the test in states_test.cc loads: `make-states FOLDER`.
#include <cstdio>
#include <filesystem>
#include <fstream>

#ifdef OUTRIGGER_HAS_LINUX_DEVICES
#include "tests/states/console_samples.h"
#include "tests/states/net_samples.h"
#endif
#include "tests/states/state_samples.h"

int main(int argument_count, char** arguments) {
    namespace fs = std::filesystem;
    if (argument_count != 2) {
        (void)std::fprintf(stderr, "usage: %s FOLDER\n", arguments[0]);
        return 2;
    }
    auto states = outrigger::testing::sample_states();
#ifdef OUTRIGGER_HAS_LINUX_DEVICES
    states.merge(outrigger::testing::sample_console_states());
    states.merge(outrigger::testing::sample_net_states());
#endif
    for (const auto& [name, bytes] : states) {
        const fs::path path = fs::path(arguments[1]) / name;
        fs::create_directories(path.parent_path());
        std::ofstream file(path, std::ios::binary);
        file << bytes;
        if (!file.flush()) {
            (void)std::fprintf(stderr, "cannot write %s\n", path.c_str());
            return 1;
        }
    }
    return 0;
}
