// SPDX-License-Identifier: Apache-2.0
/// Which pair of queues a flow belongs to: that on which the guest sent its last frame. VIRTIO 1.3,
/// 5.1.6.5.6.1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "devices/net/frame.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {

/// Of fixed size: two flows may share an entry, which then is that of the one that sent last.
class FlowTable final {
  public:
    void note_sent(const Frame& frame, uint16_t pair) { pairs_[index_of(frame)] = pair; }

    [[nodiscard]] uint16_t pair_of(const Frame& frame) const { return pairs_[index_of(frame)]; }

    /// Everything goes to the first pair.
    void clear() { pairs_.fill(0); }

  private:
    static constexpr size_t kEntries = 1024;

    /// Frames that are of no flow share the first entry.
    static size_t index_of(const Frame& frame) {
        std::array<std::byte, kHeadersBytesMax> front;
        const auto headers = std::span(front).first(copy_front(frame, front));
        const auto layout = find_layout(headers);
        return layout ? 1 + flow_hash(headers, *layout) % (kEntries - 1) : 0;
    }

    std::array<uint16_t, kEntries> pairs_{};
};

}  // namespace outrigger::net
