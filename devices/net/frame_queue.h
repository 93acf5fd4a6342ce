// SPDX-License-Identifier: Apache-2.0
/// Frames that wait for the guest, in one buffer of fixed size.
#pragma once

#include <cstddef>
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

    /// The newest frame; empty when there is none, or front() or peek() has given it to somebody.
    [[nodiscard]] std::span<const std::byte> newest();

    /// Puts bytes behind those of newest(), which is not empty, and says what is left to do to it
    /// now: all of it, to be changed until something else is called; empty: there is no room.
    [[nodiscard]] std::span<std::byte> extend_newest(std::span<const std::byte> bytes,
                                                     const FrameOffload& offload);

    /// The oldest; valid until pop() or clear().
    [[nodiscard]] std::optional<Frame> front();

    void pop();

    void clear();

    /// One of several that are looked at together.
    struct Stored {
        iovec piece{};
        FrameOffload offload{};

        /// Borrows the piece.
        [[nodiscard]] Frame frame() const {
            return {.pieces = std::span(&piece, 1), .bytes = piece.iov_len, .offload = offload};
        }
    };

    /// The oldest frames, of together no more than `bytes_max` but for the first; how many. Their
    /// bytes stay where they are until as many have been popped, whatever is pushed meanwhile.
    [[nodiscard]] size_t peek(std::span<Stored> out, size_t bytes_max);

    /// Of the oldest; there are as many.
    void pop(size_t count);

    [[nodiscard]] bool empty() const { return count_ == 0; }

    [[nodiscard]] size_t size() const { return count_; }

  private:
    struct Place {
        size_t begin = 0;
        size_t bytes = 0;
        FrameOffload offload{};
    };

    /// Where a frame of `bytes` fits, which are contiguous.
    [[nodiscard]] std::optional<size_t> find_room(size_t bytes) const;

    [[nodiscard]] const Place& place(size_t number) const {
        return places_[(first_ + number) & (places_.size() - 1)];
    }

    [[nodiscard]] Stored stored(size_t number);
    void grow();

    const size_t bytes_max_;
    std::vector<std::byte> buffer_;
    // A ring, whose size is 0 or a power of two. It keeps its room: without allocations.
    std::vector<Place> places_;
    size_t first_ = 0;
    size_t count_ = 0;
    size_t given_ = 0;  ///< of the oldest: others may have them
    Stored front_{};
};

}  // namespace outrigger::net
