// SPDX-License-Identifier: Apache-2.0
/// The kernel as an ELF file: what goes where, and where PVH enters it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

struct ElfSegment {
    uint64_t offset = 0;  ///< in the file
    uint64_t file_bytes = 0;
    uint64_t address = 0;       ///< physical
    uint64_t memory_bytes = 0;  ///< what is behind the file's bytes is zero
};

struct ElfKernel {
    std::vector<ElfSegment> segments;
    uint64_t lowest = 0;    ///< of all segments
    uint64_t highest = 0;   ///< behind all segments
    uint64_t file_end = 0;  ///< what is behind this offset is the relocation table
    std::optional<uint32_t> pvh_entry;
};

/// `bytes` is the unpacked payload. Errors name what is wrong, as a clause behind "the kernel".
[[nodiscard]] Result<ElfKernel> parse_elf_kernel(std::span<const std::byte> bytes);

}  // namespace outrigger::vmm
