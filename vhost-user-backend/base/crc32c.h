// SPDX-License-Identifier: Apache-2.0
/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78; RFC 3720, B.4): what guards what is
/// written down: an overlay's metadata, the journal of a session, the state of a device that moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace outrigger {

/// The checksum of the bytes before `bytes` goes in as `before`, so that pieces can be chained.
[[nodiscard]] uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace outrigger
