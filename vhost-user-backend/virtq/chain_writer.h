// SPDX-License-Identifier: Apache-2.0
/// A cursor over the device-writable bytes of a chain, whatever descriptors they came in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include <sys/uio.h>

#include "vhost-user-backend/guest/guest_buffer.h"
#include "vhost-user-backend/virtq/segment_cursor.h"

namespace outrigger {

/// Thread-bound: queue worker. Must not outlive its chain.
class ChainWriter final {
  public:
    /// Consumes `segments` in place. Bytes in them: `bytes`.
    ChainWriter(std::span<iovec> segments, uint64_t bytes)
        : segments_(segments), remaining_(bytes) {}

    /// Bytes not consumed yet.
    [[nodiscard]] uint64_t remaining() const { return remaining_; }

    /// Copies min(remaining(), in.size()) bytes from `in` and consumes them; returns how many.
    size_t write(std::span<const std::byte> in) {
        if (!in.empty() && !segments_.empty() && in.size() <= segments_.front().iov_len)
            [[likely]] {
            remaining_ -= in.size();
            std::memcpy(
                segment_cursor::take_from_front(segments_, in.size()), in.data(), in.size());
            return in.size();
        }
        return write_pieces(in);
    }

    /// Writes min(remaining(), bytes) zero bytes and consumes them; returns how many.
    uint64_t write_zeroes(uint64_t bytes);

    /// Consumes `bytes`, at most remaining(), and leaves what is there.
    void skip(uint64_t bytes);

    /// Cuts the last byte off (a status byte, say); nullopt when nothing remains.
    [[nodiscard]] std::optional<GuestBuffer> take_last_byte();

    /// All remaining bytes as iovecs for the kernel, valid as long as the chain; consumes them.
    /// Segments of length 0 do not appear.
    [[nodiscard]] std::span<const iovec> take_iovecs();

  private:
    size_t write_pieces(std::span<const std::byte> in);

    std::span<iovec> segments_;
    uint64_t remaining_;
};

}  // namespace outrigger
