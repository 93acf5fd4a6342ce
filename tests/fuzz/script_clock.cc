// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/script_clock.h"

#include <cstdint>

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace outrigger::fuzz {
namespace {

int64_t passed_ns = 0;

}  // namespace

void pass_time(std::chrono::milliseconds time) {
    passed_ns += std::chrono::nanoseconds(time).count();
}

}  // namespace outrigger::fuzz

/// In place of the C library's: this is what std::chrono::steady_clock asks.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
    constexpr int64_t kSecond = 1'000'000'000;
    const auto result = static_cast<int>(::syscall(SYS_clock_gettime, clock, time));
    if (result == 0 && clock == CLOCK_MONOTONIC) {
        const int64_t nanoseconds = time->tv_nsec + outrigger::fuzz::passed_ns;
        time->tv_sec += nanoseconds / kSecond;
        time->tv_nsec = nanoseconds % kSecond;
    }
    return result;
}
