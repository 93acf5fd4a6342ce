// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/guest_memory.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger::driver {
namespace {

// Between two regions' made-up addresses, so that an overrun meets nothing.
constexpr uint64_t kUserAddressGap = 0x10'0000'0000;

Result<UniqueFd> create_unlinked_file(uint64_t length) {
    const char* folder = std::getenv("TMPDIR");
    std::string path = std::string(folder != nullptr ? folder : "/tmp") + "/outrigger-ram-XXXXXX";
    UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
    if (!file.valid()) {
        return failure(error_from_errno("cannot create " + path));
    }
    ::unlink(path.c_str());
    if (::ftruncate(file.get(), static_cast<off_t>(length)) != 0) {
        return failure(error_from_errno("cannot size guest memory"));
    }
    return file;
}

Result<UniqueFd> create_file(RegionBacking backing, uint64_t length) {
    switch (backing) {
        case RegionBacking::kDefault:
            return create_shared_memory("outrigger-ram", length);
        case RegionBacking::kPosixObject:
            return create_shared_memory("outrigger-ram", length, SharedMemoryKind::kPosixObject);
        case RegionBacking::kUnlinkedFile:
            return create_unlinked_file(length);
    }
    return failure(Error{.message = "there is no such kind of guest memory"});
}

bool overlaps(const wire::MemoryRegion& region, uint64_t start, uint64_t size) {
    return start < region.guest_address + region.size && region.guest_address < start + size;
}

}  // namespace

Result<GuestMemory> GuestMemory::create(uint64_t size,
                                        GuestAddr guest_address,
                                        RegionBacking backing) {
    GuestMemory memory;
    (void)OUTRIGGER_TRY(
        memory.add_region({.guest_address = guest_address, .size = size, .backing = backing}));
    return memory;
}

Result<RegionId> GuestMemory::add_region(const RegionOptions& options) {
    const auto start = static_cast<uint64_t>(options.guest_address);
    const auto end = checked_add(start, options.size);
    const auto file_size = checked_add(options.file_offset, options.size);
    if (options.size == 0 || !end || !file_size) {
        return failure(Error{.message = "a guest memory region is empty or wraps"});
    }
    for (const auto& [id, region] : regions_) {
        if (overlaps(region.description, start, options.size)) {
            return failure(Error{.message = "guest memory regions overlap"});
        }
    }
    Region region;
    region.file = OUTRIGGER_TRY(create_file(options.backing, *file_size));
    region.mapping =
        OUTRIGGER_TRY(Mapping::map_file(region.file.get(), options.file_offset, options.size));
    uint64_t user_address = next_user_address_;
    if (options.user_address) {
        user_address = static_cast<uint64_t>(*options.user_address);
    } else {
        next_user_address_ += options.size + kUserAddressGap;
    }
    region.description = {.guest_address = start,
                          .size = options.size,
                          .user_address = user_address,
                          .mmap_offset = options.file_offset};
    const RegionId id{next_id_++};
    regions_.emplace(id, std::move(region));
    return id;
}

bool GuestMemory::remove_region(RegionId id) {
    return regions_.erase(id) > 0;
}

std::vector<RegionId> GuestMemory::regions() const {
    std::vector<RegionId> ids;
    ids.reserve(regions_.size());
    for (const auto& [id, region] : regions_) {
        ids.push_back(id);
    }
    return ids;
}

wire::MemoryRegion GuestMemory::description(RegionId id) const {
    return regions_.at(id).description;
}

int GuestMemory::fd(RegionId id) const {
    return regions_.at(id).file.get();
}

std::optional<GuestAddr> GuestMemory::allocate_in(Region& region,
                                                  uint64_t length,
                                                  uint64_t alignment) {
    const auto start = align_up(region.description.guest_address + region.allocated, alignment);
    if (!start) {
        return std::nullopt;
    }
    const uint64_t offset = *start - region.description.guest_address;
    if (!range_fits(offset, length, region.description.size)) {
        return std::nullopt;
    }
    region.allocated = offset + length;
    std::memset(region.mapping.data() + offset, 0, length);
    return GuestAddr{*start};
}

Result<GuestAddr> GuestMemory::allocate(uint64_t length,
                                        uint64_t alignment,
                                        std::optional<RegionId> region) {
    OUTRIGGER_ASSERT(length > 0 && is_power_of_two(alignment));
    for (auto& [id, candidate] : regions_) {
        if (region && *region != id) {
            continue;
        }
        if (const auto address = allocate_in(candidate, length, alignment)) {
            return *address;
        }
    }
    return failure(Error{.message = "the guest memory is used up"});
}

void GuestMemory::release_allocations(RegionId id) {
    regions_.at(id).allocated = 0;
}

const GuestMemory::Region* GuestMemory::find(GuestAddr address, uint64_t length) const {
    const auto wanted = static_cast<uint64_t>(address);
    for (const auto& [id, region] : regions_) {
        const wire::MemoryRegion& place = region.description;
        if (wanted >= place.guest_address &&
            range_fits(wanted - place.guest_address, length, place.size)) {
            return &region;
        }
    }
    return nullptr;
}

std::byte* GuestMemory::data(GuestAddr address, uint64_t length) const {
    const Region* region = find(address, length);
    if (region == nullptr) {
        return nullptr;
    }
    return region->mapping.data() +
           (static_cast<uint64_t>(address) - region->description.guest_address);
}

std::optional<FrontendAddr> GuestMemory::user_address(GuestAddr address) const {
    const Region* region = find(address, 1);
    if (region == nullptr) {
        return std::nullopt;
    }
    const uint64_t offset = static_cast<uint64_t>(address) - region->description.guest_address;
    return FrontendAddr{region->description.user_address + offset};
}

void GuestMemory::write(GuestAddr address, std::span<const std::byte> bytes) const {
    std::byte* const to = data(address, bytes.size());
    OUTRIGGER_ASSERT(to != nullptr);
    std::memcpy(to, bytes.data(), bytes.size());
}

void GuestMemory::read(GuestAddr address, std::span<std::byte> out) const {
    const std::byte* const from = data(address, out.size());
    OUTRIGGER_ASSERT(from != nullptr);
    std::memcpy(out.data(), from, out.size());
}

}  // namespace outrigger::driver
