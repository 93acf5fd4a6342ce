// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/memory_snapshot.h"

#include <algorithm>
#include <bit>
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

MemorySnapshot::MemorySnapshot(std::vector<RegionPointer> regions,
                               const AddressMode& mode,
                               const Epochs& epochs)
    : regions_(std::move(regions)), mode_(mode), epochs_(epochs) {
    by_target_.reserve(regions_.size());
    for (const RegionPointer& region : regions_) {
        by_target_.push_back(
            {.start = mode_.guest_addresses ? guest_start(region) : frontend_start(region),
             .size = region->layout().size,
             .data = region->data(),
             .guest = region->layout().guest_address});
    }
    std::ranges::sort(by_target_, {}, &Target::start);
    if (mode_.iommu) {
        return;
    }
    entries_.reserve(regions_.size());
    for (const RegionPointer& region : regions_) {
        const uint64_t size = region->layout().size;
        entries_.push_back(
            {.start = guest_start(region), .sizes = {size, size}, .data = region->data()});
    }
}

std::shared_ptr<MemorySnapshot> MemorySnapshot::make(std::vector<RegionPointer> regions,
                                                     const AddressMode& mode,
                                                     const Epochs& epochs) {
    return std::shared_ptr<MemorySnapshot>(new MemorySnapshot(std::move(regions), mode, epochs));
}

std::shared_ptr<const MemorySnapshot> MemorySnapshot::empty() {
    return make({}, {}, {.own = 0, .keeps_from = 0});
}

Result<void, MemoryTableError> MemorySnapshot::check_and_sort(std::vector<RegionPointer>& regions,
                                                              size_t regions_max,
                                                              const AddressMode& mode) {
    if (regions.size() > regions_max) {
        return failure(MemoryTableError::kTooManyRegions);
    }
    if (!mode.guest_addresses) {
        std::ranges::sort(regions, {}, frontend_start);
        if (neighbours_overlap(regions, frontend_start)) {
            return failure(MemoryTableError::kFrontendOverlap);
        }
    }
    std::ranges::sort(regions, {}, guest_start);
    if (neighbours_overlap(regions, guest_start)) {
        return failure(MemoryTableError::kGuestOverlap);
    }
    return {};
}

Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> MemorySnapshot::create(
    std::vector<RegionPointer> regions,
    uint64_t epoch,
    size_t regions_max,
    const AddressMode& mode) {
    OUTRIGGER_TRY(check_and_sort(regions, regions_max, mode));
    return make(std::move(regions), mode, {.own = epoch, .keeps_from = epoch});
}

Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> MemorySnapshot::with_region(
    RegionPointer region, size_t regions_max) const {
    std::vector<RegionPointer> regions = regions_;
    regions.push_back(std::move(region));
    OUTRIGGER_TRY(check_and_sort(regions, regions_max, mode_));
    return make(
        std::move(regions), mode_, {.own = epochs_.own + 1, .keeps_from = epochs_.keeps_from});
}

MemorySnapshot::RegionPointer MemorySnapshot::find_same(const MemoryRegionLayout& layout,
                                                        const FileIdentity& file) const {
    const auto found = std::ranges::find_if(regions_, [&](const RegionPointer& region) {
        return region->layout() == layout && region->file() == file;
    });
    return found != regions_.end() ? *found : nullptr;
}

Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> MemorySnapshot::without_region(
    const MemoryRegionLayout& layout) const {
    // The mmap offset plays no part: QEMU and libblkio send different values on removal.
    const auto matches = [&](const RegionPointer& region) {
        return region->layout().guest_address == layout.guest_address &&
               region->layout().size == layout.size &&
               (mode_.guest_addresses ||
                region->layout().frontend_address == layout.frontend_address);
    };
    std::vector<RegionPointer> regions = regions_;
    if (std::erase_if(regions, matches) == 0) {
        return failure(MemoryTableError::kUnknownRegion);
    }
    const size_t regions_max = regions.size();
    return create(std::move(regions), epochs_.own + 1, regions_max, mode_);
}

std::shared_ptr<const MemorySnapshot> MemorySnapshot::with_mode(const AddressMode& mode) const {
    return make(regions_, mode, {.own = epochs_.own + 1, .keeps_from = epochs_.own + 1});
}

std::shared_ptr<const MemorySnapshot> MemorySnapshot::with_translations(const Iotlb& iotlb,
                                                                        Withdrawn withdrawn) const {
    OUTRIGGER_ASSERT(mode_.iommu);
    const uint64_t epoch = epochs_.own + 1;
    auto next = make(regions_,
                     mode_,
                     {.own = epoch,
                      .keeps_from = withdrawn == Withdrawn::kNothing ? epochs_.keeps_from : epoch});
    next->entries_.reserve(iotlb.size());
    Progress progress;
    for (size_t index = 0; index < iotlb.size(); ++index) {
        next->add_translation(iotlb[index], progress);
    }
    return next;
}

iovec MemorySnapshot::target_prefix(uint64_t target, uint64_t length, size_t& guess) const {
    if (guess >= by_target_.size() || target - by_target_[guess].start >= by_target_[guess].size) {
        const auto behind = std::ranges::upper_bound(by_target_, target, {}, &Target::start);
        if (behind == by_target_.begin()) {
            return {};
        }
        guess = static_cast<size_t>(behind - by_target_.begin()) - 1;
    }
    const Target& found = by_target_[guess];
    const uint64_t offset = target - found.start;
    if (offset >= found.size) {
        return {};
    }
    return {.iov_base = found.data + offset,
            .iov_len = static_cast<size_t>(std::min(length, found.size - offset))};
}

bool MemorySnapshot::covers_target(uint64_t target, uint64_t size) const {
    // Each round moves on to another region, and regions do not wrap: nor does `target`.
    size_t guess = 0;
    for (size_t crossed = 0; size > 0; ++crossed) {
        if (crossed == kRegionsPerMappingMax) {
            return false;
        }
        const iovec part = target_prefix(target, size, guess);
        if (part.iov_len == 0) {
            return false;
        }
        target += part.iov_len;
        size -= part.iov_len;
    }
    return true;
}

void MemorySnapshot::add_translation(const IotlbMapping& mapping, Progress& progress) {
    // covers_target() knew other regions: others, and more, may lie there by now.
    uint64_t done = 0;
    for (size_t crossed = 0; done < mapping.size && crossed < kRegionsPerMappingMax; ++crossed) {
        const iovec part =
            target_prefix(mapping.target + done, mapping.size - done, progress.target);
        if (part.iov_len == 0) {
            return;  // the rest waits for its memory, and is missed until then
        }
        const auto size_for = [&](Access access) -> uint64_t {
            return permits(mapping.access, access) ? part.iov_len : 0;
        };
        add_entry({.start = mapping.iova + done,
                   .sizes = {size_for(Access::kRead), size_for(Access::kWrite)},
                   .data = static_cast<std::byte*>(part.iov_base)},
                  progress);
        done += part.iov_len;
    }
}

void MemorySnapshot::add_entry(const Entry& entry, Progress& progress) {
    const bool same_region = progress.target == std::exchange(progress.last_entry, progress.target);
    if (!entries_.empty() && same_region) {
        // Neighbours in both spaces, and the same is allowed: one lookup serves for both. Two
        // regions may be neighbours here as well, but are two mappings of two files.
        Entry& last = entries_.back();
        const uint64_t size = std::max(last.sizes[0], last.sizes[1]);
        const bool same_access = (last.sizes[0] == 0) == (entry.sizes[0] == 0) &&
                                 (last.sizes[1] == 0) == (entry.sizes[1] == 0);
        if (same_access && last.start + size == entry.start && last.data + size == entry.data) {
            last.sizes[0] += entry.sizes[0];
            last.sizes[1] += entry.sizes[1];
            return;
        }
    }
    entries_.push_back(entry);
}

GuestBuffer MemorySnapshot::find_prefix(GuestAddr address,
                                        uint64_t length,
                                        RegionHint& hint,
                                        Access access) const {
    const auto raw = static_cast<uint64_t>(address);
    const auto behind = std::ranges::upper_bound(entries_, raw, {}, &Entry::start);
    if (behind == entries_.begin()) {
        return {};
    }
    const Entry& entry = *std::prev(behind);
    const uint64_t offset = raw - entry.start;
    const uint64_t size = entry.size_for(access);
    if (offset >= size) {
        return {};
    }
    hint.region_index = static_cast<size_t>(behind - entries_.begin()) - 1;
    return {entry.data + offset, static_cast<size_t>(std::min(length, size - offset))};
}

bool MemorySnapshot::any_region_lost() const {
    return std::ranges::any_of(regions_,
                               [](const RegionPointer& region) { return region->lost(); });
}

std::optional<GuestBuffer> MemorySnapshot::translate_frontend(FrontendAddr address,
                                                              uint64_t length) const {
    size_t guess = 0;
    const iovec range = target_prefix(static_cast<uint64_t>(address), length, guess);
    if (length == 0 || range.iov_len != length) {
        return std::nullopt;
    }
    return GuestBuffer(range);
}

iovec MemorySnapshot::prefix_for(uint64_t address,
                                 uint64_t length,
                                 RegionHint& hint,
                                 Access access) const {
    if (access != Access::kReadWrite) {
        return translate_prefix(GuestAddr{address}, length, hint, access).as_iovec();
    }
    const iovec writable =
        translate_prefix(GuestAddr{address}, length, hint, Access::kWrite).as_iovec();
    return translate_prefix(GuestAddr{address}, writable.iov_len, hint, Access::kRead).as_iovec();
}

std::vector<iovec> MemorySnapshot::translate_pieces(GuestAddr address,
                                                    uint64_t length,
                                                    Access access) const {
    std::vector<iovec> pieces;
    RegionHint hint;
    auto raw = static_cast<uint64_t>(address);
    while (length > 0) {
        const iovec piece = prefix_for(raw, length, hint, access);
        if (piece.iov_len == 0) {
            return {};
        }
        raw += piece.iov_len;
        length -= piece.iov_len;
        if (!pieces.empty() &&
            static_cast<std::byte*>(pieces.back().iov_base) + pieces.back().iov_len ==
                piece.iov_base &&
            in_one_region(pieces.back(), piece)) {
            pieces.back().iov_len += piece.iov_len;
        } else {
            pieces.push_back(piece);
        }
    }
    return pieces;
}

bool MemorySnapshot::in_one_region(const iovec& left, const iovec& right) const {
    const auto holds = [](const Target& target, uintptr_t address) {
        return address - std::bit_cast<uintptr_t>(target.data) < target.size;
    };
    const auto first = std::bit_cast<uintptr_t>(right.iov_base);
    const uintptr_t last = std::bit_cast<uintptr_t>(left.iov_base) + left.iov_len - 1;
    return std::ranges::any_of(by_target_, [&](const Target& target) {
        return holds(target, last) && holds(target, first);
    });
}

std::optional<GuestAddr> MemorySnapshot::guest_address(const std::byte* data,
                                                       RegionHint& hint) const {
    const auto address_in = [data](const Target& target) -> std::optional<GuestAddr> {
        const uintptr_t offset =
            std::bit_cast<uintptr_t>(data) - std::bit_cast<uintptr_t>(target.data);
        if (offset >= target.size) {
            return std::nullopt;
        }
        return GuestAddr{static_cast<uint64_t>(target.guest) + offset};
    };
    if (hint.region_index < by_target_.size()) {
        if (const auto found = address_in(by_target_[hint.region_index])) {
            return found;
        }
    }
    // Asked only while a dirty log is kept, and mostly answered by the hint: no index is kept.
    for (size_t index = 0; index < by_target_.size(); ++index) {
        if (const auto found = address_in(by_target_[index])) {
            hint.region_index = index;
            return found;
        }
    }
    return std::nullopt;
}

bool MemorySnapshot::translates(const TranslationMiss& miss) const {
    RegionHint hint;
    return prefix_for(miss.iova, 1, hint, miss.access).iov_len > 0;
}

size_t MemorySnapshot::find_misses(
    GuestAddr address, uint64_t length, Access access, MissList& misses, size_t steps_max) const {
    RegionHint hint;
    auto raw = static_cast<uint64_t>(address);
    size_t steps = 0;
    while (length > 0 && steps < steps_max) {
        ++steps;
        uint64_t step = prefix_for(raw, length, hint, access).iov_len;
        if (step == 0) {
            if (!misses.add({.iova = raw, .access = access})) {
                return steps;
            }
            step = std::min(length, kMissStep - raw % kMissStep);
        }
        raw += step;
        length -= step;
    }
    return steps;
}

}  // namespace outrigger
