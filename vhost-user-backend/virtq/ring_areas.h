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

enum class RingArea : uint8_t { kDescriptor, kDriver, kDevice };

inline constexpr size_t kRingAreaCount = 3;

/// A part of an area.
struct AreaRange {
    size_t offset = 0;
    size_t bytes = 0;
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
