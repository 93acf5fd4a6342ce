// SPDX-License-Identifier: Apache-2.0
/// Where a kernel and its initrd may lie: numbers alone, so that a test looks at all there are.
#pragma once

#include <cstdint>
#include <optional>

namespace outrigger::vmm {

/// Linux maps its kernel in pages of 2 MiB, and no more than a GiB of it.
inline constexpr uint64_t kKernelAlignment = 2ULL << 20U;
inline constexpr uint64_t kKernelSpaceEnd = 1ULL << 30U;

struct InitrdSpace {
    uint64_t kernel_end = 0;   ///< what it stays above, wherever the kernel is moved
    uint64_t memory_end = 0;   ///< of the RAM below 4 GiB
    uint64_t address_max = 0;  ///< the last byte that the kernel takes
};

/// The highest page where so many bytes fit; nothing where none does, or for no bytes.
[[nodiscard]] std::optional<uint64_t> initrd_place(uint64_t bytes, const InitrdSpace& space);

/// The places of a kernel that ends at `kernel_end` where it is linked, so that it ends at `limit`
/// at the latest and where Linux maps it: each is kKernelAlignment above the one before, the first
/// is where it is linked. At least 1.
[[nodiscard]] uint64_t kernel_places(uint64_t kernel_end, uint64_t limit);

}  // namespace outrigger::vmm
