// SPDX-License-Identifier: Apache-2.0
#include "devices/net/frame_queue.h"

#include <algorithm>

#include "vhost-user-backend/base/error.h"

namespace outrigger::net {
namespace {

constexpr size_t kPlacesAtFirst = 256;

}  // namespace

std::optional<size_t> FrameQueue::find_room(size_t bytes) const {
    if (count_ == 0) {
        return bytes <= bytes_max_ ? std::optional<size_t>(0) : std::nullopt;
    }
    const size_t begin = place(0).begin;
    const Place& last = place(count_ - 1);
    const size_t end = last.begin + last.bytes;
    if (end > begin) {
        if (bytes <= bytes_max_ - end) {
            return end;
        }
        // Round to the start, where one byte stays free so that full and empty look different.
        return bytes < begin ? std::optional<size_t>(0) : std::nullopt;
    }
    return bytes < begin - end ? std::optional<size_t>(end) : std::nullopt;
}

bool FrameQueue::push(const Frame& frame) {
    const auto at = find_room(frame.bytes);
    if (!at || frame.bytes == 0) {
        return false;
    }
    if (buffer_.empty()) {
        buffer_.resize(bytes_max_);
    }
    if (count_ == places_.size()) {
        grow();
    }
    const size_t copied = copy_front(frame, std::span(buffer_).subspan(*at, frame.bytes));
    OUTRIGGER_ASSERT(copied == frame.bytes);
    places_[(first_ + count_) & (places_.size() - 1)] = {
        .begin = *at, .bytes = frame.bytes, .offload = frame.offload};
    ++count_;
    return true;
}

std::span<const std::byte> FrameQueue::newest() {
    if (given_ == count_) {
        return {};
    }
    const Place& last = place(count_ - 1);
    return std::span(buffer_).subspan(last.begin, last.bytes);
}

std::span<std::byte> FrameQueue::extend_newest(std::span<const std::byte> bytes,
                                               const FrameOffload& offload) {
    OUTRIGGER_ASSERT(given_ < count_);
    Place& last = places_[(first_ + count_ - 1) & (places_.size() - 1)];
    const size_t end = last.begin + last.bytes;
    // Where the next frame would lie, if it need not go round to the start.
    if (find_room(bytes.size()) != end) {
        return {};
    }
    std::ranges::copy(bytes, buffer_.begin() + static_cast<ptrdiff_t>(end));
    last.bytes += bytes.size();
    last.offload = offload;
    return std::span(buffer_).subspan(last.begin, last.bytes);
}

/// Each frame has a byte at least, so the buffer bounds it.
void FrameQueue::grow() {
    std::vector<Place> larger(std::max(kPlacesAtFirst, 2 * places_.size()));
    for (size_t i = 0; i < count_; ++i) {
        larger[i] = place(i);
    }
    places_.swap(larger);
    first_ = 0;
}

FrameQueue::Stored FrameQueue::stored(size_t number) {
    const Place& found = place(number);
    return {.piece = {.iov_base = buffer_.data() + found.begin, .iov_len = found.bytes},
            .offload = found.offload};
}

std::optional<Frame> FrameQueue::front() {
    if (count_ == 0) {
        return std::nullopt;
    }
    given_ = std::max(given_, size_t{1});
    front_ = stored(0);
    return front_.frame();
}

size_t FrameQueue::peek(std::span<Stored> out, size_t bytes_max) {
    size_t count = 0;
    size_t bytes = 0;
    while (count < std::min(count_, out.size())) {
        out[count] = stored(count);
        bytes += out[count].piece.iov_len;
        if (count > 0 && bytes > bytes_max) {
            break;
        }
        ++count;
    }
    given_ = std::max(given_, count);
    return count;
}

void FrameQueue::pop() {
    pop(1);
}

void FrameQueue::pop(size_t count) {
    OUTRIGGER_ASSERT(count <= count_);
    if (count > 0) {
        first_ = (first_ + count) & (places_.size() - 1);
        count_ -= count;
        given_ -= std::min(given_, count);
    }
}

void FrameQueue::clear() {
    count_ = 0;
    given_ = 0;
}

}  // namespace outrigger::net
