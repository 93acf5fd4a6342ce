// SPDX-License-Identifier: Apache-2.0
/// Makes one frame of segments of TCP that follow one another and wait for a guest, which then has
/// that many fewer to receive. What the guest reads of its connections stays the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "devices/net/frame_queue.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {

/// Of frames that come whole, with right checksums, from somebody trusted. Thread-bound.
class SegmentMerger final {
  public:
    /// `queue` is borrowed, and nobody else puts frames into it.
    explicit SegmentMerger(FrameQueue& queue) : queue_(queue) {}

    /// What the guest takes that is not cut yet. To begin with it takes nothing.
    void set_guest(const Offloads& taken) { taken_ = taken; }

    /// Puts it behind the others, or its payload behind that of the last one. False: no room.
    [[nodiscard]] bool push(std::span<const std::byte> frame);

  private:
    /// A segment with a payload, and with no flags but ACK and PSH.
    struct Segment {
        PacketLayout layout{};
        uint32_t sequence = 0;
        size_t payload_bytes = 0;
        bool is_pushed = false;
    };

    /// The last frame of the queue, while it may be added to.
    struct Open {
        PacketLayout layout{};
        uint32_t next_sequence = 0;
        size_t segment_bytes = 0;  ///< the longest payload
        size_t segments = 0;
    };

    [[nodiscard]] static std::optional<Segment> find_segment(std::span<const std::byte> frame);
    [[nodiscard]] bool is_taken(const PacketLayout& layout) const;
    [[nodiscard]] bool add(std::span<const std::byte> frame, const Segment& segment);

    FrameQueue& queue_;
    Offloads taken_{};
    std::optional<Open> open_{};
};

}  // namespace outrigger::net
