// SPDX-License-Identifier: Apache-2.0
/// The guest's memory as it was agreed on at one moment: an immutable, sorted set of regions and,
/// behind a virtual IOMMU, of translations.
///
/// A change (SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG, IOTLB_MSG) makes one with the next epoch.
/// Rings take it over one by one; a region is unmapped when the last ring and the last chain that
/// was popped under an older snapshot have let go. Immutable, so any thread may read it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/guest/access.h"
#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/guest/guest_buffer.h"
#include "vhost-user-backend/guest/iotlb.h"
#include "vhost-user-backend/guest/memory_region.h"

namespace outrigger {

/// Where the last lookup hit; the caller keeps one per ring, so that most lookups compare once.
struct RegionHint {
    size_t region_index = 0;
};

/// Which addresses are used, as the two ends agreed.
struct AddressMode {
    /// VIRTIO_F_ACCESS_PLATFORM: descriptors and rings hold I/O virtual addresses, which only the
    /// IOTLB translates.
    bool iommu = false;
    /// GPA_ADDRESSES: where the front end would name memory by its own addresses (rings, IOTLB
    /// updates) it uses guest addresses. The user addresses of regions then mean nothing.
    bool guest_addresses = false;

    friend bool operator==(const AddressMode&, const AddressMode&) = default;
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

    /// A snapshot of exactly these regions. They must not overlap in guest addresses, nor, where
    /// those mean something, in front-end addresses. In IOMMU mode nothing is translated yet.
    [[nodiscard]] static Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> create(
        std::vector<RegionPointer> regions,
        uint64_t epoch,
        size_t regions_max,
        const AddressMode& mode = {});

    /// This snapshot and one region more, at the next epoch.
    [[nodiscard]] Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> with_region(
        RegionPointer region, size_t regions_max) const;

    /// The region that is the same memory at the same addresses; nothing when there is none.
    [[nodiscard]] RegionPointer find_same(const MemoryRegionLayout& layout,
                                          const FileIdentity& file) const;

    /// This snapshot without the region of that guest address, front-end address (where it means
    /// something) and size.
    [[nodiscard]] Result<std::shared_ptr<const MemorySnapshot>, MemoryTableError> without_region(
        const MemoryRegionLayout& layout) const;

    /// The same regions, used by `mode`, at the next epoch. For a device whose rings do not run.
    /// Front-end addresses that overlap may get in this way; the lower guest address wins.
    [[nodiscard]] std::shared_ptr<const MemorySnapshot> with_mode(const AddressMode& mode) const;

    /// What a change of the IOTLB did to translations that were there before.
    enum class Withdrawn : uint8_t { kNothing, kSome };

    /// Regions that one mapping may cross: so a snapshot is never larger than this times
    /// Iotlb::kMappingsMax. Front ends cut their updates at the end of a region.
    static constexpr size_t kRegionsPerMappingMax = 16;

    /// The same regions with the translations of `iotlb`, at the next epoch. Parts of mappings that
    /// lie outside all regions, or behind kRegionsPerMappingMax of them, translate nothing. Only in
    /// IOMMU mode.
    [[nodiscard]] std::shared_ptr<const MemorySnapshot> with_translations(
        const Iotlb& iotlb, Withdrawn withdrawn) const;

    [[nodiscard]] uint64_t epoch() const { return epochs_.own; }

    [[nodiscard]] const AddressMode& mode() const { return mode_; }

    /// Ranges that lookups search: in IOMMU mode what the mappings became, else the regions.
    [[nodiscard]] size_t range_count() const { return entries_.size(); }

    /// May what was popped under `older` count as popped under this one? True when all its memory
    /// is mapped here too and nobody waits for it to be given back.
    [[nodiscard]] bool keeps(const MemorySnapshot& older) const {
        return older.epoch() >= epochs_.keeps_from && older.epoch() <= epochs_.own;
    }

    [[nodiscard]] std::span<const RegionPointer> regions() const { return regions_; }

    /// Did the front end truncate the file of one of the regions? Any thread.
    [[nodiscard]] bool any_region_lost() const;

    /// The part of [address, address + length) that lies in the region (IOMMU: the translation) of
    /// `address`: shorter than `length` when the range goes on in a neighbour, empty when `address`
    /// is not mapped for this access (or `length` is 0). A caller that needs it all asks again
    /// behind the part it got. `access` is one of kRead and kWrite.
    [[nodiscard]] GuestBuffer translate_prefix(GuestAddr address,
                                               uint64_t length,
                                               RegionHint& hint,
                                               Access access = Access::kRead) const {
        if (hint.region_index < entries_.size()) [[likely]] {
            const Entry& entry = entries_[hint.region_index];
            const uint64_t offset = static_cast<uint64_t>(address) - entry.start;
            const uint64_t size = entry.size_for(access);
            if (offset < size) [[likely]] {
                return {entry.data + offset, static_cast<size_t>(std::min(length, size - offset))};
            }
        }
        return find_prefix(address, length, hint, access);
    }

    /// The whole range, when it lies in one region. For rings, which are read through pointers.
    /// `address` is what SET_VRING_ADDR holds where there is no IOMMU.
    [[nodiscard]] std::optional<GuestBuffer> translate_frontend(FrontendAddr address,
                                                                uint64_t length) const;

    /// The whole range in pieces, as few as there are: neighbours that are neighbours here too are
    /// one, but for regions, which are mappings of their own. Empty when a part of the range is not
    /// mapped for this access (or `length` is 0).
    [[nodiscard]] std::vector<iovec> translate_pieces(GuestAddr address,
                                                      uint64_t length,
                                                      Access access) const;

    /// The guest physical address of a byte in a region's mapping, whatever was translated to get
    /// there; nullopt for one in no region. `hint` is of these lookups alone.
    [[nodiscard]] std::optional<GuestAddr> guest_address(const std::byte* data,
                                                         RegionHint& hint) const;

    /// Does [target, target + size) of an IOTLB mapping lie wholly in regions, and in no more than
    /// kRegionsPerMappingMax of them?
    [[nodiscard]] bool covers_target(uint64_t target, uint64_t size) const;

    /// Does a lookup of that address find something?
    [[nodiscard]] bool translates(const TranslationMiss& miss) const;

    /// Adds what lacks of [address, address + length) to `misses`, as far as there is room: the
    /// first address of each gap, and then one for each kMissStep, because nobody here knows how
    /// much the answer to the first will bring. Looks at `steps_max` places at most, whether they
    /// lack or not; returns at how many.
    size_t find_misses(GuestAddr address,
                       uint64_t length,
                       Access access,
                       MissList& misses,
                       size_t steps_max = std::numeric_limits<size_t>::max()) const;

  private:
    struct Epochs {
        uint64_t own;
        uint64_t keeps_from;  ///< the oldest one that keeps() knows
    };

    /// What a lookup reads, side by side in memory: 32 bytes.
    struct Entry {
        uint64_t start;
        std::array<uint64_t, 2> sizes;  // for reading and for writing; 0: that is not allowed
        std::byte* data;

        [[nodiscard]] uint64_t size_for(Access access) const {
            return sizes[static_cast<size_t>(access) - 1];
        }
    };

    /// Where with_translations() stands.
    struct Progress {
        size_t target = 0;      // where in by_target_ the last lookup hit
        size_t last_entry = 0;  // the target of the last entry
    };

    /// A region by the addresses that the front end uses.
    struct Target {
        uint64_t start;
        uint64_t size;
        std::byte* data;
        GuestAddr guest;
    };

    MemorySnapshot(std::vector<RegionPointer> regions,
                   const AddressMode& mode,
                   const Epochs& epochs);

    [[nodiscard]] static std::shared_ptr<MemorySnapshot> make(std::vector<RegionPointer> regions,
                                                              const AddressMode& mode,
                                                              const Epochs& epochs);
    [[nodiscard]] static Result<void, MemoryTableError> check_and_sort(
        std::vector<RegionPointer>& regions, size_t regions_max, const AddressMode& mode);

    /// translate_prefix() when the hint is wrong: a binary search.
    [[nodiscard]] GuestBuffer find_prefix(GuestAddr address,
                                          uint64_t length,
                                          RegionHint& hint,
                                          Access access) const;
    /// translate_prefix(), also for both accesses at once.
    [[nodiscard]] iovec prefix_for(uint64_t address,
                                   uint64_t length,
                                   RegionHint& hint,
                                   Access access) const;
    /// The part of [target, target + length) that lies in the region of `target`; empty: in none.
    /// `guess` is where the region was found the last time.
    [[nodiscard]] iovec target_prefix(uint64_t target, uint64_t length, size_t& guess) const;
    void add_translation(const IotlbMapping& mapping, Progress& progress);
    void add_entry(const Entry& entry, Progress& progress);
    /// Do the last byte of `left` and the first of `right`, neighbours here, lie in one region?
    [[nodiscard]] bool in_one_region(const iovec& left, const iovec& right) const;

    std::vector<RegionPointer> regions_;  // sorted by guest address
    std::vector<Entry> entries_;          // sorted by start
    std::vector<Target> by_target_;       // sorted by start
    AddressMode mode_;
    Epochs epochs_;
};

}  // namespace outrigger
