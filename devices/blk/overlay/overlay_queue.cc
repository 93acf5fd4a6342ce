// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/overlay_queue.h"

#include <utility>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/overlay/overlay_transfer.h"

namespace outrigger::blk {

static_assert(kClusterBytesMax <= BouncePool::kBufferBytes);

OverlayQueue::OverlayQueue(const OverlayShared& shared,
                           std::unique_ptr<ImageQueue> base,
                           std::unique_ptr<ImageQueue> layer,
                           Worker& worker,
                           uint32_t requests_max)
    : shared_(shared),
      inbox_(worker),
      transfers_(std::make_unique<OverlayTransfer[]>(requests_max)),
      base_(std::move(base)),
      layer_(std::move(layer)) {
    free_.reserve(requests_max);
    for (uint32_t i = 0; i < requests_max; ++i) {
        transfers_[i].inbox = &inbox_;
        free_.push_back(&transfers_[i]);
    }
}

OverlayQueue::~OverlayQueue() = default;

void OverlayQueue::submit(ImageRequest& request) {
    OUTRIGGER_ASSERT(!free_.empty());  // the caller agreed on a limit
    OverlayTransfer* const transfer = free_.back();
    free_.pop_back();
    transfer->begin(*this, request);
}

void OverlayQueue::finish(OverlayTransfer& transfer, int os_error) {
    ImageRequest& request = transfer.request();
    free_.push_back(&transfer);
    // Last, because it may submit the next request, or end this queue.
    request.on_image_done(os_error);
}

std::span<std::byte> OverlayQueue::take_buffer(OverlayTransfer* transfer, bool& out_of_memory) {
    const std::span<std::byte> buffer = buffers_.take();
    out_of_memory = buffer.empty() && buffers_.taken() == 0;
    if (buffer.empty() && !out_of_memory && transfer != nullptr) {
        waiting_for_buffer_.push(*transfer);
    }
    return buffer;
}

void OverlayQueue::give_back_buffer(std::span<std::byte> buffer) {
    buffers_.give_back(buffer);
    // By the inbox, so that transfers that follow each other do not pile up on the stack.
    if (Waiter* const waiting = waiting_for_buffer_.pop()) {
        inbox_.push(*waiting);
    }
}

}  // namespace outrigger::blk
