// SPDX-License-Identifier: Apache-2.0
/// Names instead of numbers where a test fails.
#pragma once

#include <ostream>

#include "vhost-user-backend/session/counters.h"

#include "tools/driver/frontend.h"
#include "tools/driver/ring_types.h"

namespace outrigger::driver {

inline void PrintTo(Answer answer, std::ostream* out) {
    *out << describe(answer);
}

inline void PrintTo(DeviceFault fault, std::ostream* out) {
    *out << describe(fault);
}

}  // namespace outrigger::driver

namespace outrigger {

inline void PrintTo(CloseReason reason, std::ostream* out) {
    *out << describe(reason);
}

inline void PrintTo(Refusal refusal, std::ostream* out) {
    *out << describe(refusal);
}

inline void PrintTo(RingError error, std::ostream* out) {
    *out << describe(error);
}

}  // namespace outrigger
