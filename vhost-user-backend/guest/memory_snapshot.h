// SPDX-License-Identifier: Apache-2.0
/// The guest's memory as it was agreed on at one moment: an immutable, sorted set of regions.
///
/// A change (SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG) makes a new snapshot with the next epoch.
/// Rings take it over one by one; a region is unmapped when the last ring and the last chain that
/// was popped under an older snapshot have let go. Immutable, so any thread may read it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/guest/guest_buffer.h"
#include "vhost-user-backend/guest/memory_region.h"

namespace outrigger {

/// Where the last lookup hit; the caller keeps one per ring, so that most lookups compare once.
struct RegionHint {
    size_t region_index = 0;
};

/// Why a set of regions is refused.
enum class MemoryTableError : uint8_t {
    kGuestOverlap,
    kFrontendOverlap,
    kTooManyRegions,
    kUnknownRegion,
};

class MemorySnapshot final {
  public:
    using RegionPointer = std::shared_ptr<const MemoryRegion>;

    /// Memory of no region, epoch 0.
    [[nodiscard]] static std::shared_ptr<const MemorySnapshot> empty();

    /// A snapshot of exactly these regions. They must not overlap in guest or front-end addresses.
    [[nodiscard]] static Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> create(
        std::vector<RegionPointer> regions, uint64_t epoch, size_t regions_max);

    /// This snapshot and one region more, at the next epoch.
    [[nodiscard]] Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> with_region(
        RegionPointer region, size_t regions_max) const;

    /// This snapshot without the region of that guest address, front-end address and size.
    [[nodiscard]] Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> without_region(
        const MemoryRegionLayout& layout) const;

    [[nodiscard]] uint64_t epoch() const { return epoch_; }

    [[nodiscard]] std::span<const RegionPointer> regions() const { return regions_; }

    /// Did the front end truncate the file of one of the regions? Any thread.
    [[nodiscard]] bool any_region_lost() const;

    /// The part of [address, address + length) that lies in the region of `address`: shorter than
    /// `length` when the range goes on in a neighbour, empty when `address` is not mapped (or
    /// `length` is 0). A caller that needs it all asks again behind the part it got.
    [[nodiscard]] GuestBuffer translate_prefix(GuestAddr address,
                                               uint64_t length,
                                               RegionHint& hint) const {
        if (hint.region_index < entries_.size()) [[likely]] {
            const Entry& entry = entries_[hint.region_index];
            const uint64_t offset = static_cast<uint64_t>(address) - entry.guest_start;
            if (offset < entry.size) [[likely]] {
                return {entry.data + offset,
                        static_cast<size_t>(std::min(length, entry.size - offset))};
            }
        }
        return find_prefix(address, length, hint);
    }

    /// The whole range, when it lies in one region. For rings, which are read through pointers.
    [[nodiscard]] std::optional<GuestBuffer> translate_frontend(FrontendAddr address,
                                                                uint64_t length) const;

  private:
    MemorySnapshot(std::vector<RegionPointer> regions, uint64_t epoch);

    /// What a lookup reads, side by side in memory.
    struct Entry {
        uint64_t guest_start;
        uint64_t size;
        std::byte* data;
    };

    /// translate_prefix() when the hint is wrong: a binary search.
    [[nodiscard]] GuestBuffer find_prefix(GuestAddr address,
                                          uint64_t length,
                                          RegionHint& hint) const;

    std::vector<RegionPointer> regions_;  // sorted by guest address
    std::vector<Entry> entries_;          // the same order
    uint64_t epoch_;
};

}  // namespace outrigger
