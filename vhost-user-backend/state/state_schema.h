// SPDX-License-Identifier: Apache-2.0
/// What writer and reader of the format share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/state/section.h"

namespace outrigger::state {

/// The first eight bytes behind the first tag: "OUTRSTAT".
inline constexpr uint64_t kMagic = 0x5441'5453'5254'554f;
inline constexpr size_t kHeaderBytesMax = size_t{64} << 10;
inline constexpr size_t kQueuesMax = 256;
inline constexpr uint32_t kQueueSizeMax = 32768;

/// Over id, version (each 4 bytes, little-endian), critical (1), name behind its length (4), and
/// content.
[[nodiscard]] uint32_t checksum(const StateSection& section);

/// Printable ASCII, not too long.
[[nodiscard]] bool is_section_name(std::string_view name);

}  // namespace outrigger::state
