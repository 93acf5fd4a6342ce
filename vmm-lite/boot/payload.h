// SPDX-License-Identifier: Apache-2.0
/// The compressed kernel in a bzImage, taken out: an ELF file with its relocation table behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/boot/bzimage.h"
#include "vmm-lite/boot/kernel_file.h"

namespace outrigger::vmm {

enum class PayloadFormat : uint8_t {
    kLz4,      ///< the legacy frame of LZ4: blocks of 8 MiB (Debian 12)
    kZstd,     ///< (Debian 13)
    kUnknown,  ///< the kernel unpacks itself
};

struct PayloadInfo {
    PayloadFormat format = PayloadFormat::kUnknown;
    uint64_t unpacked_bytes = 0;
};

/// Errors: an impossible size.
[[nodiscard]] Result<PayloadInfo> examine_payload(const KernelFile& file, const BzImage& image);

/// Unpacks to `out`, which is `unpacked_bytes` long. Errors: damaged, or of another size.
[[nodiscard]] Result<void> unpack_payload(const KernelFile& file,
                                          const BzImage& image,
                                          PayloadFormat format,
                                          std::span<std::byte> out);

}  // namespace outrigger::vmm
