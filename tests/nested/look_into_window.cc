// SPDX-License-Identifier: Apache-2.0
// In the guest: reads and writes the shared memory of tests/nested/window_daemon.cc through its
// BAR. usage: look-into-window /sys/bus/pci/devices/.../resource2 [lost]
// With "lost" it ends with an access that the machine cannot serve.
#include <cstdio>
#include <ctime>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/nested/window.h"

namespace {

using namespace outrigger::window;

int failures = 0;

void expect(const volatile unsigned char* at, unsigned wanted, const char* what) {
    // Said before, for an access that never ends.
    std::printf("%s\n", what);
    const unsigned value = *at;
    if (value != wanted) {
        std::printf("%s: %#x instead of %#x\n", what, value, wanted);
        ++failures;
    }
}

}  // namespace

int main(int argc, char** argv) {
    (void)std::setvbuf(stdout, nullptr, _IONBF, 0);
    const int fd = argc >= 2 ? ::open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    void* const base =
        fd < 0 ? MAP_FAILED : ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        std::perror("look-into-window");
        return 1;
    }
    auto* const bytes = static_cast<volatile unsigned char*>(base);
    // The device maps when its queue begins, which may be going on.
    for (int tries = 0; tries < 100 && bytes[kReadOnly] != 1; ++tries) {
        const timespec moment{.tv_sec = 0, .tv_nsec = 50'000'000};
        ::nanosleep(&moment, nullptr);
    }
    expect(bytes + kWritable, 1, "the first page");
    expect(bytes + kWritable + kPage, 2, "the second page");
    bytes[kWritable + kPage] = 0x5A;
    expect(bytes + kWritable + kPage, 0x5A, "what was written");
    expect(bytes + kReadOnly, 1, "what is read-only");
    bytes[kReadOnly] = 0x5A;
    expect(bytes + kReadOnly, 1, "what is read-only, written");
    expect(bytes + kNothing, 0xFF, "nothing");
    bytes[kNothing] = 0x5A;
    expect(bytes + kNothing, 0xFF, "nothing, written");
    expect(bytes + kBytes - 1, 0xFF, "the end of the region");
    expect(bytes + kGrowing, 1, "the first page of a file that has become longer");
    expect(bytes + kGrowing + kPage, 2, "its second page");
    expect(bytes + kShortened, 1, "the first page of a file that has become shorter");
    if (argc == 3) {
        expect(bytes + kShortened + kPage, 2, "its second page");
    }
    std::puts(failures == 0 ? "OUTRIGGER-TEST window ok" : "OUTRIGGER-TEST window failed");
    return failures == 0 ? 0 : 1;
}
