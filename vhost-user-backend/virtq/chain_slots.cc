// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/chain_slots.h"

#include <algorithm>

namespace outrigger {
namespace {

constexpr size_t kSegmentsPerEntry = 8;
constexpr size_t kSegmentsAtLeast = 4096;

}  // namespace

ChainSlots::ChainSlots(uint16_t size, uint32_t id_count)
    : slots_(size_t{size} + 1),
      ids_((id_count + kWordBits - 1) / kWordBits),
      segments_max_(std::max(kSegmentsPerEntry * size, kSegmentsAtLeast)) {
    free_.reserve(slots_.size());
    for (ChainSlot& slot : slots_) {
        free_.push_back(&slot);
    }
}

}  // namespace outrigger
