// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/segment_cursor.h"

#include <algorithm>
#include <cstring>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {

std::span<std::byte> SegmentCursor::current() const {
    const iovec& first = segments_.front();
    return std::span(static_cast<std::byte*>(first.iov_base), first.iov_len)
        .subspan(offset_in_first_);
}

SegmentCursor::Run SegmentCursor::next_run(uint32_t count_max, iovec& partial) const {
    if (remaining_ == 0) {
        return {};
    }
    if (offset_in_first_ != 0) {
        const std::span<std::byte> rest = current();
        partial = {.iov_base = rest.data(), .iov_len = rest.size()};
        return {.segments = &partial, .count = 1};
    }
    const size_t count = std::min<size_t>(segments_.size(), count_max);
    return {.segments = segments_.data(), .count = static_cast<uint32_t>(count)};
}

SegmentCursor::Run SegmentCursor::next_run_within(uint64_t bytes_max,
                                                  uint32_t count_max,
                                                  iovec& partial) const {
    Run run = next_run(count_max, partial);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < run.count; ++i) {
        const iovec& segment = run.segments[i];
        if (segment.iov_len > bytes_max - bytes) {
            if (i > 0) {
                run.count = i;
                break;
            }
            partial = {.iov_base = segment.iov_base, .iov_len = static_cast<size_t>(bytes_max)};
            return {.segments = &partial, .count = 1};
        }
        bytes += segment.iov_len;
        if (bytes == bytes_max) {
            run.count = i + 1;
            break;
        }
    }
    return run;
}

void SegmentCursor::advance(uint64_t bytes) {
    OUTRIGGER_ASSERT(bytes <= remaining_);
    remaining_ -= bytes;
    while (bytes > 0) {
        const size_t left = segments_.front().iov_len - offset_in_first_;
        if (bytes < left) {
            offset_in_first_ += static_cast<size_t>(bytes);
            return;
        }
        bytes -= left;
        offset_in_first_ = 0;
        segments_ = segments_.subspan(1);
    }
}

size_t SegmentCursor::gather(std::span<std::byte> out) {
    size_t done = 0;
    while (done < out.size() && remaining_ > 0) {
        const std::span<std::byte> from = current();
        const size_t count = std::min(from.size(), out.size() - done);
        std::memcpy(out.data() + done, from.data(), count);
        done += count;
        advance(count);
    }
    return done;
}

size_t SegmentCursor::scatter(std::span<const std::byte> in) {
    size_t done = 0;
    while (done < in.size() && remaining_ > 0) {
        const std::span<std::byte> to = current();
        const size_t count = std::min(to.size(), in.size() - done);
        std::memcpy(to.data(), in.data() + done, count);
        done += count;
        advance(count);
    }
    return done;
}

void SegmentCursor::zero(uint64_t bytes) {
    OUTRIGGER_ASSERT(bytes <= remaining_);
    while (bytes > 0) {
        std::span<std::byte> to = current();
        to = to.first(std::min<uint64_t>(to.size(), bytes));
        std::memset(to.data(), 0, to.size());
        bytes -= to.size();
        advance(to.size());
    }
}

bool SegmentCursor::is_aligned(uint32_t address_alignment, uint32_t length_alignment) const {
    if (offset_in_first_ != 0) {
        return false;
    }
    return std::ranges::all_of(segments_, [&](const iovec& segment) {
        // SAFETY: the address is only looked at as a number.
        const auto address = reinterpret_cast<uintptr_t>(segment.iov_base);
        return address % address_alignment == 0 && segment.iov_len % length_alignment == 0;
    });
}

}  // namespace outrigger::blk
