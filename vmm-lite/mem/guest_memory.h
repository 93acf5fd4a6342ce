// SPDX-License-Identifier: Apache-2.0
/// The guest's RAM: one sealed memfd, mapped here, given to KVM and to the back ends.
///
/// The file is in the order of guest addresses, with the hole below 4 GiB left out. Its size is
/// sealed before anybody else has it: a back end that could shorten it would raise SIGBUS here and
/// in KVM. Thread: `view` and `contains` any; the rest at start-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/guest/addresses.h"

#include "vmm-lite/mem/memory_region.h"

namespace outrigger::vmm {

/// RAM lies below this address and from 4 GiB on; between them are devices.
inline constexpr uint64_t kLowMemoryEnd = 0xC0000000;
inline constexpr uint64_t kHighMemoryStart = 0x1'0000'0000;
inline constexpr uint64_t kMemoryBytesMin = 64ULL << 20U;
/// What leaves room for the window of devices in 40 bits of guest address.
inline constexpr uint64_t kMemoryBytesMax = 512ULL << 30U;
inline constexpr uint64_t kMemoryGranularity = 2ULL << 20U;

class GuestMemory final {
  public:
    struct Options {
        uint64_t bytes = 0;       ///< a multiple of 2 MiB
        bool huge_pages = false;  ///< of 2 MiB, from the host's pool; reserved here or refused
    };

    GuestMemory(GuestMemory&& other) noexcept;
    GuestMemory& operator=(GuestMemory&&) = delete;
    GuestMemory(const GuestMemory&) = delete;
    GuestMemory& operator=(const GuestMemory&) = delete;
    ~GuestMemory();

    /// Errors: a size that cannot be, or that the host has not.
    [[nodiscard]] static Result<GuestMemory> create(const Options& options);

    [[nodiscard]] std::span<const MemoryRegion> regions() const { return regions_; }

    [[nodiscard]] uint64_t bytes() const { return bytes_; }

    /// The first address behind all RAM.
    [[nodiscard]] GuestAddr end() const;
    /// The first address behind the RAM below 4 GiB.
    [[nodiscard]] uint64_t low_end() const;

    /// Whether [at, at + bytes) is RAM of one region. `bytes` 0 is nowhere.
    [[nodiscard]] bool contains(GuestAddr at, uint64_t bytes) const;

    /// The same range in this process, empty when `contains` is false. The guest writes it, too.
    [[nodiscard]] std::span<std::byte> view(GuestAddr at, uint64_t bytes) const;

  private:
    GuestMemory(UniqueFd fd, std::byte* base, uint64_t bytes);

    UniqueFd fd_;
    std::byte* base_ = nullptr;
    uint64_t bytes_ = 0;
    std::vector<MemoryRegion> regions_;
};

}  // namespace outrigger::vmm
