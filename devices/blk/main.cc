// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_program.h"

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::blk::blk_program());
}
