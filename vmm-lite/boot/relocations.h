// SPDX-License-Identifier: Apache-2.0
/// Moves a kernel: KASLR, which its decompressor would do, from the table that it would do it with.
///
/// Behind the ELF file in the payload lie three lists of 32-bit addresses, each behind a zero: of
/// 64-bit fields, of 32-bit fields that are distances from elsewhere (they shrink), and of 32-bit
/// fields. The decompressor reads them backwards; arch/x86/boot/compressed/misc.c.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

struct Relocations {
    std::vector<uint32_t> wide{};     ///< 64-bit fields
    std::vector<uint32_t> inverse{};  ///< 32-bit fields that shrink
    std::vector<uint32_t> narrow{};   ///< 32-bit fields
};

/// Errors: a table that is no such table. An empty one is that of a kernel without KASLR: an error.
[[nodiscard]] Result<Relocations> parse_relocations(std::span<const std::byte> table);

/// Adds `distance` to every field. `image` holds the kernel from its lowest address on, which is
/// `linked_at` in the table's terms (physical, as linked). False when an entry is outside of it;
/// the image is of no use then.
[[nodiscard]] bool apply_relocations(const Relocations& relocations,
                                     std::span<std::byte> image,
                                     uint64_t linked_at,
                                     uint64_t distance);

}  // namespace outrigger::vmm
