// SPDX-License-Identifier: Apache-2.0
#include "devices/net/frame_queue.h"

#include "vhost-user-backend/base/error.h"

namespace outrigger::net {

std::optional<size_t> FrameQueue::find_room(size_t bytes) const {
    if (frames_.empty()) {
        return bytes <= bytes_max_ ? std::optional<size_t>(0) : std::nullopt;
    }
    const size_t begin = frames_.front().begin;
    const size_t end = frames_.back().begin + frames_.back().bytes;
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
    buffer_.resize(bytes_max_);
    const size_t copied = copy_front(frame, std::span(buffer_).subspan(*at, frame.bytes));
    OUTRIGGER_ASSERT(copied == frame.bytes);
    frames_.push_back({.begin = *at, .bytes = frame.bytes, .offload = frame.offload});
    return true;
}

std::optional<Frame> FrameQueue::front() {
    if (frames_.empty()) {
        return std::nullopt;
    }
    const Place& place = frames_.front();
    front_ = {.iov_base = buffer_.data() + place.begin, .iov_len = place.bytes};
    return Frame{.pieces = std::span(&front_, 1), .bytes = place.bytes, .offload = place.offload};
}

void FrameQueue::pop() {
    OUTRIGGER_ASSERT(!frames_.empty());
    frames_.pop_front();
}

void FrameQueue::clear() {
    frames_.clear();
}

}  // namespace outrigger::net
