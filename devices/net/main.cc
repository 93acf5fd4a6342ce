// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_program.h"

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::net::kNetProgram);
}
