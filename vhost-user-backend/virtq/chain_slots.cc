// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/chain_slots.h"

#include <algorithm>

namespace outrigger {
namespace {

constexpr size_t kSegmentsPerEntry = 8;
constexpr size_t kSegmentsAtLeast = 4096;

/// Behind an IOMMU a buffer is a piece for each page of 4 KiB: a request of 1.25 MiB, the largest
/// that Linux sends by default, has 320. So many pieces are 256 MiB in flight, or 200 such requests
/// of one ring, more than a disk needs to be busy. They are 1 MiB of lists, allocated as chains
/// need it and freed when they are back.
constexpr size_t kPagesInFlight = 65536;

}  // namespace

ChainSlots::ChainSlots(const Limits& limits)
    : slots_(size_t{limits.size} + 1),
      ids_((limits.id_count + kWordBits - 1) / kWordBits),
      segments_max_(std::max(kSegmentsPerEntry * limits.size, kSegmentsAtLeast)),
      in_flight_max_((limits.iommu ? std::max(segments_max_, kPagesInFlight) : segments_max_) *
                     (limits.keeps_writable ? 2U : 1U)) {
    free_.reserve(slots_.size());
    for (ChainSlot& slot : slots_) {
        free_.push_back(&slot);
    }
}

}  // namespace outrigger
