// SPDX-License-Identifier: Apache-2.0
#include <span>

#include "vhost-user-backend/daemon/device_program.h"

#include "devices/console/console_program.h"

int main(int argc, char** argv) {
    using namespace outrigger;
    const std::span<const char* const> arguments(argv + (argc > 0 ? 1 : 0),
                                                 argc > 0 ? static_cast<size_t>(argc) - 1 : 0);
    if (console::asks_to_attach(arguments)) {
        return console::run_attach(arguments);
    }
    return run_device_program(argc, argv, console::console_program());
}
