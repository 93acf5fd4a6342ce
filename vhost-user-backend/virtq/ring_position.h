// SPDX-License-Identifier: Apache-2.0
/// A place in a packed ring.
#pragma once

#include <cstdint>

namespace outrigger {

/// An index and the lap's parity: the wrap counter starts at 1 and flips with each lap.
/// VIRTIO 1.3, 2.8.1.
struct RingPosition {
    uint16_t index = 0;
    bool wrap = true;

    friend bool operator==(const RingPosition&, const RingPosition&) = default;

    /// The place `entry_count` entries further on, at most one lap.
    [[nodiscard]] RingPosition behind(uint16_t entry_count, uint16_t ring_size) const {
        const uint32_t next = uint32_t{index} + entry_count;
        if (next >= ring_size) {
            return {.index = static_cast<uint16_t>(next - ring_size), .wrap = !wrap};
        }
        return {.index = static_cast<uint16_t>(next), .wrap = wrap};
    }
};

}  // namespace outrigger
