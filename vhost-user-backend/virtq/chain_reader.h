// SPDX-License-Identifier: Apache-2.0
/// A cursor over the device-readable bytes of a chain, whatever descriptors they came in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include <sys/uio.h>

#include "vhost-user-backend/virtq/segment_cursor.h"

namespace outrigger {

/// Thread-bound: queue worker. Must not outlive its chain.
class ChainReader final {
  public:
    /// Consumes `segments` in place. Bytes in them: `bytes`.
    ChainReader(std::span<iovec> segments, uint64_t bytes)
        : segments_(segments), remaining_(bytes) {}

    /// Bytes not consumed yet.
    [[nodiscard]] uint64_t remaining() const { return remaining_; }

    /// Copies min(remaining(), out.size()) bytes to `out` and consumes them; returns how many.
    size_t read(std::span<std::byte> out);

    /// Copies one wire struct; nullopt, and nothing consumed, when fewer bytes remain.
    template <class T>
    requires std::is_trivially_copyable_v<T>

    [[nodiscard]] std::optional<T> read_object() {
        T object;
        if (!read_object_to(object)) {
            return std::nullopt;
        }
        return object;
    }

    /// The same, to where the caller has it; false in place of nullopt. For what is read of every
    /// request: an object that is copied once more waits, in the processor, for the stores of the
    /// first copy.
    template <class T>
    requires std::is_trivially_copyable_v<T>

    [[nodiscard]] bool read_object_to(T& object) {
        if (remaining_ < sizeof(T)) {
            return false;
        }
        if (segments_.front().iov_len >= sizeof(T)) [[likely]] {
            remaining_ -= sizeof(T);
            std::memcpy(&object, segment_cursor::take_from_front(segments_, sizeof(T)), sizeof(T));
        } else {
            read(std::as_writable_bytes(std::span(&object, 1)));
        }
        return true;
    }

    /// Consumes `bytes`, at most remaining(), without reading them.
    void skip(uint64_t bytes);

    /// All remaining bytes as iovecs for the kernel, valid as long as the chain; consumes them.
    /// Segments of length 0 do not appear.
    [[nodiscard]] std::span<const iovec> take_iovecs();

  private:
    std::span<iovec> segments_;
    uint64_t remaining_;
};

}  // namespace outrigger
