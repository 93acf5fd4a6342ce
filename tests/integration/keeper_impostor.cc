// SPDX-License-Identifier: Apache-2.0
// A program that tells its keeper that it is there, and then does not serve anybody.
#include <cstdlib>
#include <string_view>

#include <unistd.h>

int main() {
    const char* const channel = std::getenv("OUTRIGGER_KEEPER");
    if (channel == nullptr) {
        return 2;
    }
    constexpr std::string_view kHello = "HELLO=1";
    if (::write(std::atoi(channel), kHello.data(), kHello.size()) < 0) {
        return 1;
    }
    constexpr unsigned kForLong = 60;
    ::sleep(kForLong);
    return 0;
}
