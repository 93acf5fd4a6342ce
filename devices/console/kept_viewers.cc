// SPDX-License-Identifier: Apache-2.0
#include "devices/console/kept_viewers.h"

#include <algorithm>
#include <atomic>

namespace outrigger::console {

uint64_t KeptViewers::field(size_t slot, size_t at) const {
    // SAFETY: slot < count_max_, at is one of the constants; the memory begins at a multiple of 64.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const word = reinterpret_cast<uint64_t*>(memory_.data() + slot * kSlotBytes + at);
    return std::atomic_ref<uint64_t>(*word).load(std::memory_order_acquire);
}

void KeptViewers::set_field(size_t slot, size_t at, uint64_t value) {
    // SAFETY: as above.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const word = reinterpret_cast<uint64_t*>(memory_.data() + slot * kSlotBytes + at);
    // In this order for whoever reads when we have been killed.
    std::atomic_ref<uint64_t>(*word).store(value, std::memory_order_release);
}

std::vector<KeptViewers::Viewer> KeptViewers::all() const {
    std::vector<Viewer> list;
    for (size_t slot = 0; slot < count_max_; ++slot) {
        const uint64_t order = field(slot, kOrder);
        if (order != 0) {
            const uint64_t more = field(slot, kKindAndProcess);
            list.push_back({.slot = slot,
                            .order = order,
                            .value = field(slot, kValue),
                            .kind = static_cast<uint32_t>(more >> 32),
                            .process = static_cast<int32_t>(static_cast<uint32_t>(more))});
        }
    }
    std::ranges::sort(list, {}, &Viewer::order);
    return list;
}

std::optional<size_t> KeptViewers::find_free() const {
    for (size_t slot = 0; slot < count_max_; ++slot) {
        if (field(slot, kOrder) == 0) {
            return slot;
        }
    }
    return std::nullopt;
}

void KeptViewers::begin(const Viewer& viewer) {
    uint64_t last = 0;
    for (size_t slot = 0; slot < count_max_; ++slot) {
        last = std::max(last, field(slot, kOrder));
    }
    set_field(viewer.slot, kValue, viewer.value);
    set_field(viewer.slot,
              kKindAndProcess,
              uint64_t{viewer.kind} << 32 | static_cast<uint32_t>(viewer.process));
    set_field(viewer.slot, kOrder, last + 1);
}

void KeptViewers::end(size_t slot) {
    set_field(slot, kOrder, 0);
}

void KeptViewers::set_value(size_t slot, uint64_t value) {
    set_field(slot, kValue, value);
}

}  // namespace outrigger::console
