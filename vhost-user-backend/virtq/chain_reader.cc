// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/chain_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/virtq/segment_cursor.h"

namespace outrigger {

size_t ChainReader::read(std::span<std::byte> out) {
    const auto bytes = static_cast<size_t>(std::min<uint64_t>(out.size(), remaining_));
    std::byte* to = out.data();
    segment_cursor::consume(segments_, bytes, [&to](const std::byte* piece, size_t piece_bytes) {
        std::memcpy(to, piece, piece_bytes);
        to += piece_bytes;
    });
    remaining_ -= bytes;
    return bytes;
}

void ChainReader::skip(uint64_t bytes) {
    OUTRIGGER_ASSERT(bytes <= remaining_);
    segment_cursor::consume(segments_, bytes, [](const std::byte*, size_t) {});
    remaining_ -= bytes;
}

std::span<const iovec> ChainReader::take_iovecs() {
    remaining_ = 0;
    return std::exchange(segments_, {});
}

}  // namespace outrigger
