// SPDX-License-Identifier: Apache-2.0
/// How the first processor enters the kernel. The others wait in KVM until the guest starts them.
#pragma once

#include <cstdint>

namespace outrigger::vmm {

struct EntryState {
    enum class Mode : uint8_t {
        kLong64,       ///< Linux' 64-bit boot protocol: paging on, RSI is the zero page
        kProtected32,  ///< PVH: paging off, EBX is the start info
    };

    Mode mode = Mode::kLong64;
    uint64_t instruction = 0;  ///< physical, and mapped there
    uint64_t parameters = 0;   ///< RSI or EBX
    uint64_t page_table = 0;   ///< of kLong64
    uint64_t gdt = 0;          ///< where write_gdt() has put the table below
};

/// The table that EntryState's selectors mean: code at 0x10, data at 0x18, task at 0x20.
struct BootGdt {
    uint64_t entries[5];
};

[[nodiscard]] BootGdt boot_gdt(EntryState::Mode mode);

}  // namespace outrigger::vmm
