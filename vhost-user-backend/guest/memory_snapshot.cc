// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/memory_snapshot.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger {
namespace {

uint64_t guest_start(const MemorySnapshot::RegionPointer& region) {
    return static_cast<uint64_t>(region->layout().guest_address);
}

uint64_t frontend_start(const MemorySnapshot::RegionPointer& region) {
    return static_cast<uint64_t>(region->layout().frontend_address);
}

/// Do neighbours overlap, once `regions` is sorted by `start`? Ends were checked not to wrap.
template <class Start>
bool neighbours_overlap(const std::vector<MemorySnapshot::RegionPointer>& regions, Start start) {
    const auto overlap = [start](const auto& left, const auto& right) {
        return start(right) - start(left) < left->layout().size;
    };
    return std::ranges::adjacent_find(regions, overlap) != regions.end();
}

}  // namespace

MemorySnapshot::MemorySnapshot(std::vector<RegionPointer> regions, uint64_t epoch)
    : regions_(std::move(regions)), epoch_(epoch) {
    entries_.reserve(regions_.size());
    for (const RegionPointer& region : regions_) {
        entries_.push_back({.guest_start = guest_start(region),
                            .size = region->layout().size,
                            .data = region->data()});
    }
}

std::shared_ptr<const MemorySnapshot> MemorySnapshot::empty() {
    return std::shared_ptr<const MemorySnapshot>(new MemorySnapshot({}, 0));
}

Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> MemorySnapshot::create(
    std::vector<RegionPointer> regions, uint64_t epoch, size_t regions_max) {
    if (regions.size() > regions_max) {
        return failure(MemoryTableError::kTooManyRegions);
    }
    std::ranges::sort(regions, {}, frontend_start);
    if (neighbours_overlap(regions, frontend_start)) {
        return failure(MemoryTableError::kFrontendOverlap);
    }
    std::ranges::sort(regions, {}, guest_start);
    if (neighbours_overlap(regions, guest_start)) {
        return failure(MemoryTableError::kGuestOverlap);
    }
    return std::shared_ptr<const MemorySnapshot>(new MemorySnapshot(std::move(regions), epoch));
}

Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> MemorySnapshot::with_region(
    RegionPointer region, size_t regions_max) const {
    std::vector<RegionPointer> regions = regions_;
    regions.push_back(std::move(region));
    return create(std::move(regions), epoch_ + 1, regions_max);
}

Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> MemorySnapshot::without_region(
    const MemoryRegionLayout& layout) const {
    // The mmap offset plays no part: QEMU and libblkio send different values on removal.
    const auto matches = [&layout](const RegionPointer& region) {
        return region->layout().guest_address == layout.guest_address &&
               region->layout().frontend_address == layout.frontend_address &&
               region->layout().size == layout.size;
    };
    std::vector<RegionPointer> regions = regions_;
    if (std::erase_if(regions, matches) == 0) {
        return failure(MemoryTableError::kUnknownRegion);
    }
    const size_t regions_max = regions.size();
    return create(std::move(regions), epoch_ + 1, regions_max);
}

GuestBuffer MemorySnapshot::find_prefix(GuestAddr address,
                                        uint64_t length,
                                        RegionHint& hint) const {
    const auto raw = static_cast<uint64_t>(address);
    const auto behind = std::ranges::upper_bound(entries_, raw, {}, &Entry::guest_start);
    if (behind == entries_.begin()) {
        return {};
    }
    const Entry& entry = *std::prev(behind);
    const uint64_t offset = raw - entry.guest_start;
    if (offset >= entry.size) {
        return {};
    }
    hint.region_index = static_cast<size_t>(behind - entries_.begin()) - 1;
    return {entry.data + offset, static_cast<size_t>(std::min(length, entry.size - offset))};
}

bool MemorySnapshot::any_region_lost() const {
    return std::ranges::any_of(regions_,
                               [](const RegionPointer& region) { return region->lost(); });
}

std::optional<GuestBuffer> MemorySnapshot::translate_frontend(FrontendAddr address,
                                                              uint64_t length) const {
    const auto raw = static_cast<uint64_t>(address);
    for (const RegionPointer& region : regions_) {
        const uint64_t offset = raw - frontend_start(region);
        if (raw >= frontend_start(region) && length > 0 &&
            range_fits(offset, length, region->layout().size)) {
            return GuestBuffer(region->data() + offset, static_cast<size_t>(length));
        }
    }
    return std::nullopt;
}

}  // namespace outrigger
