// SPDX-License-Identifier: Apache-2.0
/// What the kernel is told when it is entered: Linux' zero page, or the start info of PVH, and what
/// both point to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmm-lite/boot/bzimage.h"
#include "vmm-lite/kvm/entry_state.h"
#include "vmm-lite/mem/guest_memory.h"

namespace outrigger::vmm {

struct MemoryMapEntry {
    uint64_t start = 0;
    uint64_t bytes = 0;
    uint32_t type = 0;  ///< 1 RAM, 2 reserved; the same numbers in both protocols

    friend bool operator==(const MemoryMapEntry&, const MemoryMapEntry&) = default;
};

/// What is RAM to the guest: all but the range below 1 MiB where the tables lie.
[[nodiscard]] std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory);

struct BootParameters {
    std::string command_line;
    uint64_t initrd_address = 0;
    uint64_t initrd_bytes = 0;
    uint64_t acpi_root_pointer = 0;
};

/// GDT, command line, and the code at the reset vector. It all fits: GuestMemory has a minimum.
void write_common(const GuestMemory& memory,
                  const BootParameters& parameters,
                  EntryState::Mode mode);
/// Linux, Documentation/arch/x86/boot.rst, "64-bit boot protocol", with page tables.
void write_zero_page(const GuestMemory& memory,
                     const BzImage& image,
                     const BootParameters& parameters);
/// Xen, docs/misc/pvh.pandoc.
void write_start_info(const GuestMemory& memory, const BootParameters& parameters);

}  // namespace outrigger::vmm
