// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/descriptor_chain.h"

#include "vhost-user-backend/virtq/virtqueue.h"

namespace outrigger {

DescriptorChain& DescriptorChain::operator=(DescriptorChain&& other) noexcept {
    if (this != &other) {
        if (queue_ != nullptr) {
            complete(0);
        }
        queue_ = std::exchange(other.queue_, nullptr);
        slot_ = other.slot_;
    }
    return *this;
}

void DescriptorChain::complete(uint32_t written_bytes) {
    OUTRIGGER_ASSERT(queue_ != nullptr);
    std::exchange(queue_, nullptr)->complete_chain(*slot_, written_bytes);
}

EarlierRun DescriptorChain::earlier_run() const {
    OUTRIGGER_ASSERT(queue_ != nullptr);
    return queue_->earlier_run(*slot_);
}

void DescriptorChain::note_intent(std::span<const std::byte> intent) {
    OUTRIGGER_ASSERT(queue_ != nullptr);
    queue_->note_intent(*slot_, intent);
}

void DescriptorChain::note_outcome(std::span<const std::byte> outcome, uint32_t written_bytes) {
    OUTRIGGER_ASSERT(queue_ != nullptr);
    queue_->note_outcome(*slot_, outcome, written_bytes);
}

void DescriptorChain::set_aside() {
    OUTRIGGER_ASSERT(queue_ != nullptr && queue_->notes_in_flight());
    std::exchange(queue_, nullptr)->set_chain_aside(*slot_);
}

}  // namespace outrigger
