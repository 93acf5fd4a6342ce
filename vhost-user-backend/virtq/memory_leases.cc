// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/memory_leases.h"

#include <algorithm>

namespace outrigger {

void MemoryLeases::adopt(std::shared_ptr<const MemorySnapshot> memory) {
    Lease& last = leases_[current_];
    // Where nothing was taken away the chains need not hold on to a snapshot of their own: a front
    // end may add a great many translations while one request is out.
    if (last.chain_count == 0 || memory->keeps(*last.memory)) {
        last.memory = std::move(memory);
        return;
    }
    ++old_count_;
    const auto is_free = [](const Lease& lease) { return lease.memory == nullptr; };
    const auto slot = std::ranges::find_if(leases_, is_free);
    current_ = static_cast<uint32_t>(slot - leases_.begin());
    if (slot != leases_.end()) {
        slot->memory = std::move(memory);
    } else {
        leases_.push_back({.memory = std::move(memory)});
    }
}

}  // namespace outrigger
