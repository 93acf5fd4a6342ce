// SPDX-License-Identifier: Apache-2.0
/// Guest memory for ring tests: one memfd for each region, mapped as the framework maps it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/guest/memory_snapshot.h"

namespace outrigger::test {

/// What a test places in guest memory, by guest address.
class GuestMemory final {
  public:
    struct Region {
        uint64_t guest_address;
        uint64_t size;
    };

    /// Front-end addresses are guest addresses plus this, so that a mix-up shows.
    static constexpr uint64_t kFrontendShift = 0x7f00'0000'0000;

    explicit GuestMemory(const std::vector<Region>& regions) {
        for (const Region& region : regions) {
            regions_.push_back(map_region(region));
        }
    }

    [[nodiscard]] std::shared_ptr<const MemorySnapshot> snapshot(uint64_t epoch = 1) const {
        return MemorySnapshot::create(regions_, epoch, regions_.size()).value();
    }

    /// A snapshot of the regions but for number `index`.
    [[nodiscard]] std::shared_ptr<const MemorySnapshot> snapshot_without(size_t index,
                                                                         uint64_t epoch) const {
        auto regions = regions_;
        regions.erase(regions.begin() + static_cast<std::ptrdiff_t>(index));
        return MemorySnapshot::create(std::move(regions), epoch, regions_.size()).value();
    }

    /// The byte at a guest address here; aborts outside of all regions.
    [[nodiscard]] std::byte* at(uint64_t guest_address) const {
        for (const auto& region : regions_) {
            const auto start = static_cast<uint64_t>(region->layout().guest_address);
            if (guest_address >= start && guest_address - start < region->layout().size) {
                return region->data() + (guest_address - start);
            }
        }
        ADD_FAILURE() << "no region at " << guest_address;
        std::abort();
    }

    void write(uint64_t guest_address, std::string_view bytes) const {
        std::memcpy(at(guest_address), bytes.data(), bytes.size());
    }

    [[nodiscard]] std::string read(uint64_t guest_address, size_t size) const {
        std::string bytes(size, '\0');
        std::memcpy(bytes.data(), at(guest_address), size);
        return bytes;
    }

    /// Lets go of the test's own hold on region `index`; watches what remains.
    [[nodiscard]] std::weak_ptr<const MemoryRegion> watch(size_t index) const {
        return regions_[index];
    }

    void forget() { regions_.clear(); }

  private:
    static MemorySnapshot::RegionPointer map_region(const Region& region) {
        const UniqueFd fd = create_shared_memory("ring-test", region.size).value();
        const MemoryRegionLayout layout = {
            .guest_address = GuestAddr{region.guest_address},
            .size = region.size,
            .frontend_address = FrontendAddr{region.guest_address + kFrontendShift},
            .mmap_offset = 0,
        };
        return std::make_shared<const MemoryRegion>(MemoryRegion::map(layout, fd.get()).value());
    }

    std::vector<MemorySnapshot::RegionPointer> regions_;
};

}  // namespace outrigger::test
