// SPDX-License-Identifier: Apache-2.0
/// CRC-32C (Castagnoli), as iSCSI, ext4 and Btrfs have it: RFC 3720, B.4.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace outrigger {

/// Of `bytes`, going on from what came before (0: nothing). Pure.
[[nodiscard]] uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace outrigger
