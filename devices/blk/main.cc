// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <exception>
#include <span>
#include <string_view>

#include "devices/blk/blk_program.h"
#include "devices/blk/overlay/overlay_command.h"

int main(int argc, char** argv) {
    const std::span arguments(argv, static_cast<size_t>(argc));
    if (argc > 1 && std::string_view(argv[1]) == "overlay") {
        try {
            return outrigger::blk::run_overlay_command(arguments.subspan(2));
        } catch (const std::exception& exception) {
            (void)std::fprintf(stderr, "outrigger-blk: %s\n", exception.what());
            return 1;
        }
    }
    return outrigger::run_device_program(argc, argv, outrigger::blk::blk_program());
}
