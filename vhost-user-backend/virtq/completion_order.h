// SPDX-License-Identifier: Apache-2.0
/// The order in which chains were popped, for rings with VIRTIO_F_IN_ORDER: what a device finished
/// early waits here until everything before it is finished too. VIRTIO 1.3, 2.7.9 and 2.8.9.
#pragma once

#include <cstdint>

#include "vhost-user-backend/virtq/descriptor_chain.h"

namespace outrigger {

/// A list through the slots themselves, so it needs no memory and cannot be full. Thread-bound:
/// queue worker.
class CompletionOrder final {
  public:
    /// The chain was popped behind all others.
    void append(ChainSlot& slot) {
        slot.completed = false;
        slot.set_aside = false;
        slot.popped_next = nullptr;
        (oldest_ == nullptr ? oldest_ : newest_->popped_next) = &slot;
        newest_ = &slot;
    }

    [[nodiscard]] bool is_oldest(const ChainSlot& slot) const { return oldest_ == &slot; }

    /// Takes the oldest chain off the list when the device is done with it; null when it is not, or
    /// when there is none.
    [[nodiscard]] ChainSlot* take_completed() {
        ChainSlot* const slot = oldest_;
        if (slot == nullptr || !slot->completed) {
            return nullptr;
        }
        oldest_ = slot->popped_next;
        return slot;
    }

  private:
    ChainSlot* oldest_ = nullptr;
    ChainSlot* newest_ = nullptr;  // means something while there is an oldest one
};

}  // namespace outrigger
