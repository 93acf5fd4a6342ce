// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/descriptor_budget.h"

#include <algorithm>
#include <utility>

namespace outrigger::fs {

DescriptorBudget::Part::Part(DescriptorBudget& budget, std::function<uint64_t()> held)
    : budget_(budget), held_(std::move(held)) {
    budget_.join(*this);
}

DescriptorBudget::Part::~Part() {
    budget_.leave(*this);
}

bool DescriptorBudget::Part::has_room(uint64_t held, uint64_t count) const {
    return budget_.has_room(*this, held, count);
}

uint64_t DescriptorBudget::part_size() const {
    const uint64_t max = max_.load(std::memory_order_relaxed);
    const uint64_t count = part_count_.load(std::memory_order_relaxed);
    return count <= 1 ? max : max / 2 / count;
}

void DescriptorBudget::join(Part& part) {
    const std::lock_guard lock(mutex_);
    parts_.push_back(&part);
    part_count_.store(parts_.size(), std::memory_order_relaxed);
    is_crowded_.store(true, std::memory_order_relaxed);
}

void DescriptorBudget::leave(Part& part) {
    const std::lock_guard lock(mutex_);
    std::erase(parts_, &part);
    part_count_.store(parts_.size(), std::memory_order_relaxed);
}

bool DescriptorBudget::has_room(const Part& asking, uint64_t held, uint64_t count) {
    const uint64_t part = part_size();
    const bool is_own = held + count <= part;
    if (is_own && !is_crowded_.load(std::memory_order_relaxed)) {
        return true;
    }
    const std::lock_guard lock(mutex_);
    uint64_t others_held = 0;
    uint64_t others_taken = 0;  // with what they must find when they need it
    for (const Part* const other : parts_) {
        if (other != &asking) {
            const uint64_t its = other->held_();
            others_held += its;
            others_taken += std::max(its, part);
        }
    }
    const uint64_t max = max_.load(std::memory_order_relaxed);
    is_crowded_.store(others_taken + std::max(held, part) > max, std::memory_order_relaxed);
    return held + count + (is_own ? others_held : others_taken) <= max;
}

}  // namespace outrigger::fs
