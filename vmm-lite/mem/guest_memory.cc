// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/mem/guest_memory.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

Result<void> check(const GuestMemory::Options& options) {
    if (options.bytes < kMemoryBytesMin || options.bytes > kMemoryBytesMax ||
        options.bytes % kMemoryGranularity != 0) {
        return failure(Error{
            .message = fmt::format("guest memory is from {} MiB to {} GiB, in steps of {} MiB",
                                   kMemoryBytesMin >> 20U,
                                   kMemoryBytesMax >> 30U,
                                   kMemoryGranularity >> 20U)});
    }
    return {};
}

Result<UniqueFd> create_file(const GuestMemory::Options& options) {
    const unsigned huge = options.huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0U;
    UniqueFd fd(::memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge));
    if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(options.bytes)) != 0 ||
        ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return failure(error_from_errno("cannot create the guest's memory"));
    }
    return fd;
}

}  // namespace

Result<GuestMemory> GuestMemory::create(const Options& options) {
    OUTRIGGER_TRY(check(options));
    UniqueFd fd = OUTRIGGER_TRY(create_file(options));
    // Pages of the pool are reserved by this call: without a reservation the guest's first touch of
    // one that is not there would end us with SIGBUS. Others come when they are touched.
    const int reserve = options.huge_pages ? 0 : MAP_NORESERVE;
    void* const base =
        ::mmap(nullptr, options.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | reserve, fd.get(), 0);
    if (base == MAP_FAILED) {
        if (options.huge_pages && errno == ENOMEM) {
            return failure(
                Error{.message = fmt::format(
                          "the host has not {} free huge pages of 2 MiB; write that number to "
                          "/proc/sys/vm/nr_hugepages, or leave out --huge-pages",
                          options.bytes >> 21U),
                      .os_error = ENOMEM});
        }
        return failure(error_from_errno("cannot map the guest's memory"));
    }
    if (!options.huge_pages) {
        // Where the host's shmem_enabled is "advise". Else it changes nothing.
        (void)::madvise(base, options.bytes, MADV_HUGEPAGE);
    }
    // A core dump of this process is not one of the guest.
    (void)::madvise(base, options.bytes, MADV_DONTDUMP);
    return GuestMemory(std::move(fd), static_cast<std::byte*>(base), options.bytes);
}

GuestMemory::GuestMemory(UniqueFd fd, std::byte* base, uint64_t bytes)
    : fd_(std::move(fd)), base_(base), bytes_(bytes) {
    const uint64_t low = std::min(bytes, kLowMemoryEnd);
    const auto address = std::bit_cast<uint64_t>(base);
    regions_.push_back({.guest_address = GuestAddr{0},
                        .bytes = low,
                        .frontend_address = address,
                        .fd_offset = 0,
                        .fd = fd_.get()});
    if (bytes > low) {
        regions_.push_back({.guest_address = GuestAddr{kHighMemoryStart},
                            .bytes = bytes - low,
                            .frontend_address = address + low,
                            .fd_offset = low,
                            .fd = fd_.get()});
    }
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : fd_(std::move(other.fd_)),
      base_(std::exchange(other.base_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      regions_(std::move(other.regions_)) {}

GuestMemory::~GuestMemory() {
    if (base_ != nullptr) {
        ::munmap(base_, bytes_);
    }
}

GuestAddr GuestMemory::end() const {
    const MemoryRegion& last = regions_.back();
    return GuestAddr{static_cast<uint64_t>(last.guest_address) + last.bytes};
}

uint64_t GuestMemory::low_end() const {
    return regions_.front().bytes;
}

bool GuestMemory::contains(GuestAddr at, uint64_t bytes) const {
    return !view(at, bytes).empty();
}

std::span<std::byte> GuestMemory::view(GuestAddr at, uint64_t bytes) const {
    const auto address = static_cast<uint64_t>(at);
    for (const MemoryRegion& region : regions_) {
        const auto start = static_cast<uint64_t>(region.guest_address);
        if (address >= start && range_fits<uint64_t>(address - start, bytes, region.bytes)) {
            return {base_ + region.fd_offset + (address - start), bytes};
        }
    }
    return {};
}

}  // namespace outrigger::vmm
