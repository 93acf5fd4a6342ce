// SPDX-License-Identifier: Apache-2.0
// Tells vmm-lite that the guest's init runs: the byte 1 to port 0x610, or to the one that it is
// given. Under QEMU, with its device isa-debug-exit there, it ends the machine. Debian's cloud
// kernels have no /dev/port.
#include <cstdlib>

#include <sys/io.h>

int main(int argc, char** argv) {
    const unsigned long given = argc == 2 ? std::strtoul(argv[1], nullptr, 0) : 0x610;
    const auto port = static_cast<unsigned short>(given);
    if (ioperm(port, 1, 1) != 0) {
        return 1;
    }
    outb(1, port);
    return 0;
}
