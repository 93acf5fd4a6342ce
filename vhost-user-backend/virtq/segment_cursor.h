// SPDX-License-Identifier: Apache-2.0
/// How a chain's reader and writer step through a list of segments.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace outrigger::segment_cursor {

/// Takes `bytes` off the front segment, which holds as many: a pointer to them.
[[nodiscard]] inline std::byte* take_from_front(std::span<iovec>& segments, size_t bytes) {
    iovec& front = segments.front();
    auto* const data = static_cast<std::byte*>(front.iov_base);
    front.iov_base = data + bytes;
    front.iov_len -= bytes;
    if (front.iov_len == 0) {
        segments = segments.subspan(1);
    }
    return data;
}

/// Hands the next `bytes` bytes of `segments` to `each`, in pieces of one segment, and takes them
/// off the front. The segments hold at least as many, and none of them is empty, before and after.
template <class Each>
void consume(std::span<iovec>& segments, uint64_t bytes, Each each) {
    while (bytes > 0) {
        const auto piece_bytes =
            static_cast<size_t>(std::min<uint64_t>(bytes, segments.front().iov_len));
        each(take_from_front(segments, piece_bytes), piece_bytes);
        bytes -= piece_bytes;
    }
}

}  // namespace outrigger::segment_cursor
