// SPDX-License-Identifier: Apache-2.0
/// Frames that wait for the guest, in one buffer of fixed size.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "devices/net/frame.h"

namespace outrigger::net {

/// Thread-bound. Memory is taken with the first frame.
class FrameQueue final {
  public:
    explicit FrameQueue(size_t bytes_max) : bytes_max_(bytes_max) {}

    /// Copies it behind the others; false: there is no room.
    [[nodiscard]] bool push(const Frame& frame);

    /// The oldest; valid until pop() or clear().
    [[nodiscard]] std::optional<Frame> front();

    void pop();

    void clear();

    [[nodiscard]] bool empty() const { return frames_.empty(); }

    [[nodiscard]] size_t size() const { return frames_.size(); }

  private:
    struct Place {
        size_t begin = 0;
        size_t bytes = 0;
        FrameOffload offload{};
    };

    /// Where a frame of `bytes` fits, which are contiguous.
    [[nodiscard]] std::optional<size_t> find_room(size_t bytes) const;

    const size_t bytes_max_;
    std::vector<std::byte> buffer_;
    std::deque<Place> frames_;
    iovec front_{};
};

}  // namespace outrigger::net
