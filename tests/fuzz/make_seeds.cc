// SPDX-License-Identifier: Apache-2.0
/// Writes the committed scripts: `fuzz-make-seeds FOLDER` makes FOLDER/TARGET/NAME for each. What a
/// script does is in its name; the scenarios are those of the unit and integration tests.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fuzz/seeds.h"

int main(int argument_count, char** arguments) {
    namespace fs = std::filesystem;
    if (argument_count != 2) {
        (void)std::fprintf(stderr, "usage: %s FOLDER\n", arguments[0]);
        return 2;
    }
    outrigger::fuzz::Seeds seeds;
    outrigger::fuzz::add_control_seeds(seeds);
    outrigger::fuzz::add_stream_seeds(seeds);
    outrigger::fuzz::add_ring_seeds(seeds);
    outrigger::fuzz::add_blk_seeds(seeds);
    outrigger::fuzz::add_qcow2_seeds(seeds);
    outrigger::fuzz::add_overlay_seeds(seeds);
    outrigger::fuzz::add_console_seeds(seeds);
    outrigger::fuzz::add_fs_seeds(seeds);
    outrigger::fuzz::add_net_seeds(seeds);
    outrigger::fuzz::add_reply_seeds(seeds);
    outrigger::fuzz::add_session_seeds(seeds);
    outrigger::fuzz::add_state_seeds(seeds);
    outrigger::fuzz::add_vsock_seeds(seeds);
    for (const auto& [name, script] : seeds) {
        const fs::path path = fs::path(arguments[1]) / name;
        fs::create_directories(path.parent_path());
        std::ofstream file(path, std::ios::binary);
        for (const uint8_t byte : script) {
            file.put(static_cast<char>(byte));
        }
        if (!file.flush()) {
            (void)std::fprintf(stderr, "cannot write %s\n", path.c_str());
            return 1;
        }
    }
    return 0;
}
