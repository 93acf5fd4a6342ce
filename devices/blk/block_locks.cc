// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/block_locks.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {

bool BlockLocks::covers(const Holder& holder, uint32_t slot) {
    return (slot + kSlots - holder.first_slot) % kSlots < holder.slot_count;
}

bool BlockLocks::lock(Holder& holder,
                      uint64_t offset_bytes,
                      uint64_t length_bytes,
                      bool exclusive) {
    OUTRIGGER_ASSERT(holder.slot_count == 0 && length_bytes > 0);
    const uint64_t first = offset_bytes / kStretchBytes;
    const uint64_t last = (offset_bytes + length_bytes - 1) / kStretchBytes;
    holder.first_slot = static_cast<uint32_t>(first % kSlots);
    holder.slot_count = static_cast<uint32_t>(std::min<uint64_t>(last - first + 1, kSlots));
    holder.exclusive = exclusive;
    if (holder.slot_count == 1) {
        // What nearly all writes are, without a walk through the table.
        holder.next_slot = holder.first_slot;
        Slot& slot = slots_[holder.first_slot];
        if (try_take(slot, exclusive)) {
            holder.next_slot = kSlots;
            return true;
        }
        return lock_rest(holder);
    }
    holder.next_slot = 0;
    return lock_rest(holder);
}

/// In the order of the table, whatever the order in the image: so no two wait for each other.
bool BlockLocks::lock_rest(Holder& holder) {
    for (; holder.next_slot < kSlots; ++holder.next_slot) {
        Slot& slot = slots_[holder.next_slot];
        if (covers(holder, holder.next_slot) && !try_take(slot, holder.exclusive) &&
            stand_in_line(slot, holder)) {
            return false;
        }
    }
    return true;
}

bool BlockLocks::try_take(Slot& slot, bool exclusive) {
    uint32_t state = slot.state.load(std::memory_order_relaxed);
    while (true) {
        if (exclusive ? state != 0 : (state & (kExclusive | kLine)) != 0) {
            return false;
        }
        // Acquire: pairs with the release in release(), so that what the last holder did to the
        // blocks comes before what this one does.
        if (slot.state.compare_exchange_weak(state,
                                             exclusive ? kExclusive : state + 1,
                                             std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
            return true;
        }
    }
}

bool BlockLocks::stand_in_line(Slot& slot, Holder& holder) {
    const std::lock_guard guard(mutex_);
    holder.next_in_line = nullptr;
    if (slot.first_in_line != nullptr) {
        // kLine has been set since before whatever release lets this one in, and that one sees it.
        slot.last_in_line = slot.last_in_line->next_in_line = &holder;
        return true;
    }
    slot.first_in_line = slot.last_in_line = &holder;
    // From here on a release sees that somebody waits. One that came before is seen by admit().
    slot.state.fetch_or(kLine, std::memory_order_relaxed);
    return admit(slot) == nullptr;
}

BlockLocks::Holder* BlockLocks::admit(Slot& slot) {
    Holder* admitted = nullptr;
    Holder* last = nullptr;
    while (Holder* const first = slot.first_in_line) {
        // Acquire: pairs with the release in release(). kLine is set: others only give back.
        const uint32_t state = slot.state.load(std::memory_order_acquire) & ~kLine;
        if (first->exclusive ? state != 0 : (state & kExclusive) != 0) {
            break;
        }
        slot.state.fetch_add(first->exclusive ? kExclusive : 1, std::memory_order_relaxed);
        slot.first_in_line = std::exchange(first->next_in_line, nullptr);
        (admitted == nullptr ? admitted : last->next_in_line) = first;
        last = first;
    }
    if (slot.first_in_line == nullptr) {
        slot.state.fetch_and(~kLine, std::memory_order_relaxed);
    }
    return admitted;
}

void BlockLocks::release(Slot& slot, bool exclusive) {
    // Release: pairs with the acquires in try_take() and admit().
    const uint32_t before =
        slot.state.fetch_sub(exclusive ? kExclusive : 1, std::memory_order_release);
    if ((before & kLine) == 0) {
        return;
    }
    Holder* admitted = nullptr;
    {
        const std::lock_guard guard(mutex_);
        admitted = admit(slot);
    }
    while (admitted != nullptr) {
        Holder* const holder = std::exchange(admitted, admitted->next_in_line);
        ++holder->next_slot;
        // Without this the holder waits in another line now, and may already have been let in.
        if (lock_rest(*holder)) {
            holder->on_locked();
        }
    }
}

void BlockLocks::unlock(Holder& holder) {
    const uint32_t count = std::exchange(holder.slot_count, 0);
    for (uint32_t i = 0; i < count; ++i) {
        release(slots_[(holder.first_slot + i) % kSlots], holder.exclusive);
    }
}

}  // namespace outrigger::blk
