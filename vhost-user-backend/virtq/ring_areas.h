// SPDX-License-Identifier: Apache-2.0
/// Where the three areas of a ring lie, and what they must be like.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger {

/// The areas in this process. Null: the ring is not in guest memory now.
struct RingAreas {
    std::byte* descriptor = nullptr;
    std::byte* driver = nullptr;
    std::byte* device = nullptr;
};

struct RingAreaRule {
    size_t bytes = 0;
    size_t alignment = 1;
};

struct RingAreaRules {
    RingAreaRule descriptor;
    RingAreaRule driver;
    RingAreaRule device;
};

}  // namespace outrigger
