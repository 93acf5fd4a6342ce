// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/ring_types.h"

namespace outrigger::driver {

std::string_view describe(DeviceFault fault) {
    switch (fault) {
        case DeviceFault::kNone:
            return "none";
        case DeviceFault::kUsedIndexJump:
            return "more used entries than chains in flight";
        case DeviceFault::kUsedIdOutOfRange:
            return "used id beyond the ring";
        case DeviceFault::kUsedIdNotInFlight:
            return "used id that was not in flight";
        case DeviceFault::kUsedOutOfOrder:
            return "used before an earlier chain";
    }
    return "";
}

uint32_t writable_bytes(std::span<const Segment> segments) {
    uint32_t bytes = 0;
    for (const Segment& segment : segments) {
        bytes += segment.device_writable ? segment.length : 0;
    }
    return bytes;
}

}  // namespace outrigger::driver
