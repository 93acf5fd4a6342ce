// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/fixed_memory.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/log.h"

namespace outrigger::blk {

void FixedMemory::use(const MemorySnapshot& memory) {
    const auto regions = memory.regions();
    // Behind a virtual IOMMU most changes are none of regions.
    if (std::ranges::equal(areas_, regions, {}, &Area::region)) {
        return;
    }
    std::vector<Area> before = std::exchange(areas_, {});
    areas_.reserve(regions.size());
    size_t room = kPiecesMax;
    for (const Area& area : before) {
        room -= std::ranges::find(regions, area.region) != regions.end() ? area.slots.size() : 0;
    }
    for (const MemorySnapshot::RegionPointer& region : regions) {
        const auto known = std::ranges::find(before, region, &Area::region);
        Area area = known != before.end() ? std::exchange(*known, Area{})
                                          : Area{.region = region,
                                                 .data = region->data(),
                                                 .size = region->layout().size,
                                                 .slots = {}};
        // A front end may share a file that is all holes, of any size.
        const uint64_t pieces = (area.size + kPieceBytes - 1) / kPieceBytes;
        const uint64_t more = std::min<uint64_t>(pieces - area.slots.size(), room);
        area.slots.resize(area.slots.size() + more, kNotYet);
        room -= more;
        areas_.push_back(std::move(area));
    }
    std::ranges::for_each(before, [this](Area& area) { give_back(area); });
    last_ = 0;
    given_up_ = false;
}

void FixedMemory::release() {
    std::ranges::for_each(areas_, [this](Area& area) { give_back(area); });
    areas_.clear();
}

std::span<std::byte> FixedMemory::piece(const Area& area, size_t index) const {
    const uint64_t begin = uint64_t{index} * kPieceBytes;
    return {area.data + begin, static_cast<size_t>(std::min(kPieceBytes, area.size - begin))};
}

void FixedMemory::give_back(Area& area) {
    for (size_t i = 0; i < area.slots.size(); ++i) {
        if (const int32_t slot = std::exchange(area.slots[i], kNotYet); slot != kNotYet) {
            uring_.unregister_buffer(static_cast<uint32_t>(slot));
            counts_.bytes.fetch_sub(piece(area, i).size(), std::memory_order_relaxed);
        }
    }
}

std::optional<uint32_t> FixedMemory::slot_of(const iovec& segment) {
    // As numbers: the segment may lie in memory of another kind, such as a bounce buffer.
    // SAFETY: the addresses are only looked at.
    const auto address = reinterpret_cast<uintptr_t>(segment.iov_base);
    const auto offset_in = [address](const Area& area) {
        // SAFETY: the same.
        return uint64_t{address - reinterpret_cast<uintptr_t>(area.data)};
    };
    if (last_ < areas_.size()) [[likely]] {
        Area& area = areas_[last_];
        if (const uint64_t offset = offset_in(area); offset < area.size) [[likely]] {
            return slot_in(area, offset, segment.iov_len);
        }
    }
    for (size_t i = 0; i < areas_.size(); ++i) {
        if (const uint64_t offset = offset_in(areas_[i]); offset < areas_[i].size) {
            last_ = i;
            return slot_in(areas_[i], offset, segment.iov_len);
        }
    }
    return std::nullopt;
}

std::optional<uint32_t> FixedMemory::slot_in(Area& area, uint64_t offset, uint64_t length) {
    const auto index = static_cast<size_t>(offset / kPieceBytes);
    if (index >= area.slots.size()) [[unlikely]] {
        return std::nullopt;
    }
    const std::span<std::byte> memory = piece(area, index);
    const uint64_t offset_in_piece = offset % kPieceBytes;
    if (offset_in_piece > memory.size() || length > memory.size() - offset_in_piece) {
        return std::nullopt;
    }
    if (const int32_t slot = area.slots[index]; slot != kNotYet) [[likely]] {
        return static_cast<uint32_t>(slot);
    }
    if (given_up_) {
        return std::nullopt;
    }
    const auto registered = uring_.register_buffer(memory);
    if (!registered) {
        given_up_ = true;
        counts_.refusals.fetch_add(1, std::memory_order_relaxed);
        log(LogLevel::kDebug,
            "blk: goes on without registering more guest memory: {}",
            registered.error().message);
        return std::nullopt;
    }
    counts_.bytes.fetch_add(memory.size(), std::memory_order_relaxed);
    area.slots[index] = static_cast<int32_t>(*registered);
    return *registered;
}

}  // namespace outrigger::blk
