// SPDX-License-Identifier: Apache-2.0
/// How a chain's reader and writer step through a list of segments.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace outrigger::segment_cursor {

/// Hands the next `bytes` bytes of `segments` to `each`, in pieces of one segment, and takes them
/// off the front. The segments hold at least as many, and none of them is empty, before and after.
template <class Each>
void consume(std::span<iovec>& segments, uint64_t bytes, Each each) {
    while (bytes > 0) {
        iovec& front = segments.front();
        const iovec piece = {
            .iov_base = front.iov_base,
            .iov_len = static_cast<size_t>(std::min<uint64_t>(bytes, front.iov_len))};
        each(piece);
        bytes -= piece.iov_len;
        front.iov_base = static_cast<std::byte*>(front.iov_base) + piece.iov_len;
        front.iov_len -= piece.iov_len;
        if (front.iov_len == 0) {
            segments = segments.subspan(1);
        }
    }
}

}  // namespace outrigger::segment_cursor
