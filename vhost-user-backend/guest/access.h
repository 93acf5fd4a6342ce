// SPDX-License-Identifier: Apache-2.0
/// What a device may do to a piece of guest memory.
#pragma once

#include <cstdint>

namespace outrigger {

/// The numbers are those of an IOTLB message ("permissions flags"): one bit each.
enum class Access : uint8_t {
    kRead = 1,
    kWrite = 2,
    kReadWrite = 3,
};

/// Does `granted` include everything in `wanted`?
[[nodiscard]] constexpr bool permits(Access granted, Access wanted) {
    const auto missing = static_cast<unsigned>(wanted) & ~static_cast<unsigned>(granted);
    return missing == 0;
}

[[nodiscard]] constexpr Access both(Access left, Access right) {
    return static_cast<Access>(static_cast<unsigned>(left) | static_cast<unsigned>(right));
}

}  // namespace outrigger
