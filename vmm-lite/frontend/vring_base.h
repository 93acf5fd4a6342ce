// SPDX-License-Identifier: Apache-2.0
/// Where a ring goes on whose back end has gone without saying where it was.
#pragma once

#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/addresses.h"

#include "vmm-lite/mem/memory_region.h"

namespace outrigger::vmm {

/// Where a ring begins after a reset of the device. Of a packed ring both halves, available and
/// used, with their wrap counters, which begin with 1. vhost-user "Vring descriptor index".
inline constexpr uint32_t kFreshSplitBase = 0;
inline constexpr uint32_t kFreshPackedBase = 0x8000'8000;

/// What lies behind a guest address: the region and how far into it, if all `bytes` lie in it.
struct Place {
    const MemoryRegion* region = nullptr;
    uint64_t offset = 0;
};

[[nodiscard]] Place find_place(std::span<const MemoryRegion> memory,
                               GuestAddr address,
                               uint64_t bytes);

/// The used ring's index, from guest memory: what the driver has been told. A split ring goes on
/// from there: with an in-flight buffer the back end knows what it has taken beyond, and adds that;
/// without one it takes all that was not answered again, which is right as long as it answers in
/// order. vhost-user "Inflight I/O tracking".
///
/// Read by pread(): no mapping of ours is needed, and no pointer can go astray.
[[nodiscard]] Result<uint32_t> split_base_after_loss(std::span<const MemoryRegion> memory,
                                                     GuestAddr used_ring);

/// What is left of a packed ring whose back end has gone.
struct PackedRemains {
    std::span<const MemoryRegion> memory{};
    GuestAddr descriptor_ring{};
    uint16_t size = 0;  ///< of the ring
    int inflight_fd = -1;
    uint64_t offset = 0;  ///< of the ring's part of the in-flight buffer, in the file
};

/// Where a packed ring goes on: the place in its in-flight buffer, an update that was not finished
/// taken back as the specification says. Without a buffer nobody knows.
[[nodiscard]] Result<uint32_t> packed_base_after_loss(const PackedRemains& remains);

}  // namespace outrigger::vmm
