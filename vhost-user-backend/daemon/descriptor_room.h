// SPDX-License-Identifier: Apache-2.0
/// Descriptors that guests may make a device open, out of those that the process may have.
#pragma once

#include <cstddef>

namespace outrigger {

/// What stays for the rest of the program, where guests open as many as they like.
inline constexpr size_t kDescriptorsOfProgram = 256;

/// Raises RLIMIT_NOFILE, as far as the system allows, so that `count` more have room beside those
/// that were asked for before and `spared` for the rest of the program. How many of them have.
/// Before the sandbox, on the control thread.
[[nodiscard]] size_t make_room_for_descriptors(size_t count, size_t spared = kDescriptorsOfProgram);

}  // namespace outrigger
