// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/chain_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/virtq/segment_cursor.h"

namespace outrigger {

size_t ChainWriter::write_pieces(std::span<const std::byte> in) {
    const auto bytes = static_cast<size_t>(std::min<uint64_t>(in.size(), remaining_));
    const std::byte* from = in.data();
    segment_cursor::consume(segments_, bytes, [&from](std::byte* piece, size_t piece_bytes) {
        std::memcpy(piece, from, piece_bytes);
        from += piece_bytes;
    });
    remaining_ -= bytes;
    return bytes;
}

uint64_t ChainWriter::write_zeroes(uint64_t bytes) {
    bytes = std::min(bytes, remaining_);
    segment_cursor::consume(segments_, bytes, [](std::byte* piece, size_t piece_bytes) {
        std::memset(piece, 0, piece_bytes);
    });
    remaining_ -= bytes;
    return bytes;
}

void ChainWriter::skip(uint64_t bytes) {
    OUTRIGGER_ASSERT(bytes <= remaining_);
    segment_cursor::consume(segments_, bytes, [](std::byte*, size_t) {});
    remaining_ -= bytes;
}

std::optional<GuestBuffer> ChainWriter::take_last_byte() {
    if (remaining_ == 0) {
        return std::nullopt;
    }
    --remaining_;
    iovec& last = segments_.back();
    --last.iov_len;
    const GuestBuffer byte(static_cast<std::byte*>(last.iov_base) + last.iov_len, 1);
    if (last.iov_len == 0) {
        segments_ = segments_.first(segments_.size() - 1);
    }
    return byte;
}

std::span<const iovec> ChainWriter::take_iovecs() {
    remaining_ = 0;
    return std::exchange(segments_, {});
}

}  // namespace outrigger
