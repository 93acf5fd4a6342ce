// SPDX-License-Identifier: Apache-2.0
/// The file that Linux for x86 comes in: a set-up part with a header, and behind it the code of the
/// decompressor with the compressed kernel in it. Linux, Documentation/arch/x86/boot.rst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/boot/kernel_file.h"

namespace outrigger::vmm {

struct BzImage {
    std::vector<std::byte> header;  ///< of the file from kHeaderOffset on: for the zero page
    uint64_t code_offset = 0;       ///< in the file: the decompressor
    uint64_t code_bytes = 0;
    uint64_t payload_offset = 0;          ///< in the file
    uint64_t payload_bytes = 0;           ///< its last four are the size of what is in it
    uint64_t preferred_address = 0;       ///< where it is loaded
    uint64_t init_bytes = 0;              ///< what it needs from there before it knows its memory
    uint64_t initrd_address_max = 0;      ///< the last byte that an initrd may have
    uint32_t command_line_bytes_max = 0;  ///< without the zero at its end

    static constexpr uint64_t kHeaderOffset = 0x1F1;
    static constexpr uint64_t kEntry64 = 0x200;  ///< from the start of the code
};

/// Errors: no Linux kernel, one of another architecture, too old (2.12, Linux 3.8), cut short.
[[nodiscard]] Result<BzImage> parse_bzimage(const KernelFile& file);

}  // namespace outrigger::vmm
