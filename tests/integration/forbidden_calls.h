// SPDX-License-Identifier: Apache-2.0
/// What forbidden_calls_test and the library that it loads into daemons have agreed on.
#pragma once

#include <csignal>
#include <cstdint>
#include <cstdlib>

namespace outrigger::testing {

/// Asks a thread to try what is forbidden. Nothing else uses it.
inline int try_signal() {
    return SIGRTMIN + 7;
}

/// Where the test listens by TCP: $OUTRIGGER_OPEN_PORT.
inline uint16_t open_port() {
    const char* const text = std::getenv("OUTRIGGER_OPEN_PORT");
    return text != nullptr ? static_cast<uint16_t>(std::atoi(text)) : uint16_t{0};
}

}  // namespace outrigger::testing
