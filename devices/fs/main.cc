// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "devices/fs/fs_program.h"
#include "devices/fs/virtiofsd_options.h"

int main(int argc, char** argv) {
    std::vector<std::string> arguments = outrigger::fs::translate_virtiofsd_options(
        std::span<const char* const>(argv, static_cast<size_t>(argc)));
    std::vector<char*> pointers;
    for (std::string& argument : arguments) {
        pointers.push_back(argument.data());
    }
    pointers.push_back(nullptr);
    return outrigger::run_device_program(
        static_cast<int>(arguments.size()), pointers.data(), outrigger::fs::fs_program());
}
