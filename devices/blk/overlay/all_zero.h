// SPDX-License-Identifier: Apache-2.0
/// Is memory all zeroes? Copies of such memory are holes.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace outrigger::blk {

[[nodiscard]] inline bool all_zero(std::span<const std::byte> bytes) {
    // Each byte equals the next, and the first is zero: as fast as the library compares.
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace outrigger::blk
