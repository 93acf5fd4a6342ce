// SPDX-License-Identifier: Apache-2.0
/// An overlay's end for one queue: its transfers, and its own queues of base and layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/io/worker.h"

#include "devices/blk/bounce_pool.h"
#include "devices/blk/image.h"
#include "devices/blk/overlay/overlay_shared.h"
#include "devices/blk/overlay/waiter.h"

namespace outrigger::blk {

class OverlayTransfer;

/// Thread-bound: queue worker. Allocates nothing once it is made but its buffers, when they are
/// first needed.
class OverlayQueue final : public ImageQueue {
  public:
    /// `base` and `layer` serve `requests_max` requests at a time.
    OverlayQueue(const OverlayShared& shared,
                 std::unique_ptr<ImageQueue> base,
                 std::unique_ptr<ImageQueue> layer,
                 Worker& worker,
                 uint32_t requests_max);
    ~OverlayQueue() override;

    void submit(ImageRequest& request) override;

    void retire() override {
        base_->retire();
        layer_->retire();
    }

  private:
    friend class OverlayTransfer;

    void finish(OverlayTransfer& transfer, int os_error);

    /// Empty when all are taken: then `transfer`, if given, is resumed when one is free; or when
    /// there is no memory, in which case `out_of_memory` is set and it does not wait.
    [[nodiscard]] std::span<std::byte> take_buffer(OverlayTransfer* transfer, bool& out_of_memory);
    void give_back_buffer(std::span<std::byte> buffer);

    const OverlayShared& shared_;
    ResumeInbox inbox_;
    std::unique_ptr<OverlayTransfer[]> transfers_;
    std::vector<OverlayTransfer*> free_;  // capacity for all
    BouncePool buffers_;
    WaiterList waiting_for_buffer_;
    std::unique_ptr<ImageQueue> base_;
    std::unique_ptr<ImageQueue> layer_;  // last: both go before the transfers they point to
};

}  // namespace outrigger::blk
