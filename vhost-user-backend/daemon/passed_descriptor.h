// SPDX-License-Identifier: Apache-2.0
/// Descriptors that an option names by their number.
#pragma once

#include <fcntl.h>

namespace outrigger {

/// Has this process inherited what it has under that number? What it opens by itself, or is sent,
/// is close-on-exec: a number that was passed to an earlier process of the daemon alone is free in
/// the next one, and soon something else's.
[[nodiscard]] inline bool is_passed(int number) {
    const int flags = ::fcntl(number, F_GETFD);
    return flags >= 0 && (flags & FD_CLOEXEC) == 0;
}

}  // namespace outrigger
