// SPDX-License-Identifier: Apache-2.0
/// The device-writable part of a request: the reply's header in front, whose length and error are
/// known last, and behind it the payload, which the kernel may write directly.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/virtq/descriptor_chain.h"

#include "devices/fs/fuse_wire.h"

namespace outrigger::fs {

/// Thread-bound: queue worker. Its room is kept from one request to the next.
class ReplyWriter final {
  public:
    /// Takes the chain's writable part, before anything else of this is called. False: it has no
    /// room for a header, so the request cannot be answered.
    [[nodiscard]] bool begin(DescriptorChain& chain, uint64_t unique);

    /// Bytes of payload that there is room for.
    [[nodiscard]] uint64_t room() const { return room_; }

    /// Appends to the payload. False, and nothing written, when there is no room.
    [[nodiscard]] bool append(std::span<const std::byte> bytes);

    template <class T>
    requires std::is_trivially_copyable_v<T>

    [[nodiscard]] bool append_object(const T& object) {
        if (sizeof(T) <= room_ && payload_[next_].iov_len >= sizeof(T)) {
            // In one piece, like most: its size is known to the compiler.
            std::memcpy(payload_[next_].iov_base, &object, sizeof(T));
            take_from_front(sizeof(T));
            return true;
        }
        return append(std::as_bytes(std::span(&object, 1)));
    }

    /// Where the next `bytes` bytes of the payload go (at most room()), for the kernel; valid until
    /// the next begin(). What it wrote is told by note_written().
    [[nodiscard]] std::span<iovec> iovecs(uint64_t bytes);

    void note_written(uint64_t bytes) { payload_bytes_ += bytes; }

    [[nodiscard]] uint64_t payload_bytes() const { return payload_bytes_; }

    // For who counts: what the reply is to, and how much of the driver's was written to a file.
    void set_opcode(uint32_t opcode) { opcode_ = opcode; }

    [[nodiscard]] uint32_t opcode() const { return opcode_; }

    void set_taken(uint64_t bytes) { taken_bytes_ = bytes; }

    [[nodiscard]] uint64_t taken_bytes() const { return taken_bytes_; }

    /// Forgets the payload and writes the header: the used length of the chain.
    [[nodiscard]] uint32_t finish_with_error(int error);

    /// Writes the header for the payload that there is.
    [[nodiscard]] uint32_t finish();

    [[nodiscard]] uint64_t unique() const { return unique_; }

  private:
    /// So many bytes of the payload were written, all into its next piece.
    void take_from_front(size_t bytes) {
        iovec& piece = payload_[next_];
        piece.iov_base = static_cast<std::byte*>(piece.iov_base) + bytes;
        piece.iov_len -= bytes;
        room_ -= bytes;
        payload_bytes_ += bytes;
        if (piece.iov_len == 0) {
            ++next_;
        }
    }

    void prefetch() const;
    void write_header(int32_t error, uint32_t length);

    uint64_t unique_ = 0;
    // A guest may cut the header into as many pieces as it has bytes.
    std::array<iovec, sizeof(fuse_out_header)> header_{};
    size_t header_pieces_ = 0;
    std::vector<iovec> payload_;
    size_t next_ = 0;  // of payload_: where append() goes on, consumed in place
    uint64_t room_ = 0;
    uint64_t payload_bytes_ = 0;
    uint64_t taken_bytes_ = 0;
    uint32_t opcode_ = 0;
};

}  // namespace outrigger::fs
