// SPDX-License-Identifier: Apache-2.0
/// The memory of a pretended guest: regions that the front end shares with the back end.
///
/// Each region has three addresses that have nothing to do with one another: where the guest sees
/// it, where the front end claims to see it (made up), and where this process maps it. A back end
/// that confuses two of them fails at once.
///
/// Not thread-safe; pointers stay valid until their region is removed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/wire/messages.h"

namespace outrigger::driver {

enum class RegionId : uint32_t {};

enum class RegionBacking : uint8_t {
    kDefault,       ///< a memfd, sealed against shrinking; kPosixObject in the portable build
    kPosixObject,   ///< POSIX shared memory, like QEMU's memory-backend-shm: can be truncated
    kUnlinkedFile,  ///< a temporary file: can be truncated, like QEMU's memory-backend-file
};

struct RegionOptions {
    GuestAddr guest_address{};
    uint64_t size = 0;  ///< bytes, > 0
    RegionBacking backing = RegionBacking::kDefault;
    uint64_t file_offset = 0;                    ///< where in its file the region begins
    std::optional<FrontendAddr> user_address{};  ///< default: made up, unlike any other region's
};

class GuestMemory final {
  public:
    GuestMemory() = default;

    /// One region of `size` bytes at guest address `guest_address`.
    [[nodiscard]] static Result<GuestMemory> create(
        uint64_t size,
        GuestAddr guest_address = GuestAddr{0x10000},
        RegionBacking backing = RegionBacking::kDefault);

    /// Fails when the host cannot, or when the region overlaps another one's guest addresses.
    [[nodiscard]] Result<RegionId> add_region(const RegionOptions& options);

    /// Unmaps it; nothing may use its memory any more. False when there is no such region.
    bool remove_region(RegionId id);

    /// The regions there are, by age.
    [[nodiscard]] std::vector<RegionId> regions() const;

    /// A region as SET_MEM_TABLE and ADD_MEM_REG describe it, and its file (borrowed).
    [[nodiscard]] wire::MemoryRegion description(RegionId id) const;
    [[nodiscard]] int fd(RegionId id) const;

    /// `length` zeroed bytes that nobody else was given, from the named region or the first one
    /// with room. `alignment` is a power of two, of the guest address. Nothing is ever given back
    /// but by release_allocations().
    [[nodiscard]] Result<GuestAddr> allocate(uint64_t length,
                                             uint64_t alignment,
                                             std::optional<RegionId> region = std::nullopt);

    /// Forgets every allocation in a region, to begin anew.
    void release_allocations(RegionId id);

    /// Where this process sees a range; null when it is not wholly in one region.
    [[nodiscard]] std::byte* data(GuestAddr address, uint64_t length) const;

    /// What the front end calls that address; nullopt outside all regions.
    [[nodiscard]] std::optional<FrontendAddr> user_address(GuestAddr address) const;

    /// Copies in and out. The range must be mapped: an assertion holds it.
    void write(GuestAddr address, std::span<const std::byte> bytes) const;
    void read(GuestAddr address, std::span<std::byte> out) const;

  private:
    struct Region {
        wire::MemoryRegion description{};
        UniqueFd file;
        Mapping mapping;
        uint64_t allocated = 0;
    };

    [[nodiscard]] const Region* find(GuestAddr address, uint64_t length) const;
    [[nodiscard]] static std::optional<GuestAddr> allocate_in(Region& region,
                                                              uint64_t length,
                                                              uint64_t alignment);

    std::map<RegionId, Region> regions_;
    uint32_t next_id_ = 0;
    uint64_t next_user_address_ = 0x7a00'0000'0000;
};

[[nodiscard]] constexpr GuestAddr offset_by(GuestAddr address, uint64_t bytes) {
    return GuestAddr{static_cast<uint64_t>(address) + bytes};
}

}  // namespace outrigger::driver
