// SPDX-License-Identifier: Apache-2.0
/// A position in a request's data that moves as the kernel transfers it: whole segments, parts of
/// them, and never back. The segments themselves are not changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace outrigger::blk {

class SegmentCursor final {
  public:
    /// Segments for one system call.
    struct Run {
        const iovec* segments = nullptr;
        uint32_t count = 0;
    };

    SegmentCursor() = default;

    /// `bytes`: the sum over `segments`, of which none is empty.
    SegmentCursor(std::span<const iovec> segments, uint64_t bytes)
        : segments_(segments), remaining_(bytes) {}

    [[nodiscard]] uint64_t remaining() const { return remaining_; }

    /// The next segments, at most `count_max` (> 0). In the middle of a segment the run is the
    /// rest of that one alone, built in `partial`; so nothing needs to be copied to resume.
    [[nodiscard]] Run next_run(uint32_t count_max, iovec& partial) const;

    /// The same, but no more than `bytes_max` (> 0): the part of a segment that crosses it is a run
    /// of its own.
    [[nodiscard]] Run next_run_within(uint64_t bytes_max, uint32_t count_max, iovec& partial) const;

    /// Moves forward by `bytes`, at most remaining().
    void advance(uint64_t bytes);

    /// Copies min(remaining(), out.size()) bytes to `out` and moves behind them; returns how many.
    size_t gather(std::span<std::byte> out);

    /// Copies min(remaining(), in.size()) bytes from `in` and moves behind them; returns how many.
    size_t scatter(std::span<const std::byte> in);

    /// Writes zeroes over the next `bytes`, at most remaining(), and moves behind them.
    void zero(uint64_t bytes);

    /// Writes zeroes over all that remains.
    void zero_rest() { zero(remaining_); }

    /// Do all segments from here on start at a multiple of `address_alignment` and have a length
    /// that is a multiple of `length_alignment`? Both are powers of two.
    [[nodiscard]] bool is_aligned(uint32_t address_alignment, uint32_t length_alignment) const;

  private:
    /// The rest of the current segment; remaining() > 0.
    [[nodiscard]] std::span<std::byte> current() const;

    std::span<const iovec> segments_;
    uint64_t remaining_ = 0;
    size_t offset_in_first_ = 0;
};

}  // namespace outrigger::blk
