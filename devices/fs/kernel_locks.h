// SPDX-License-Identifier: Apache-2.0
/// The locks of an open file description, as the kernel lists them: another process that has got a
/// descriptor of it asks for them here. Pure, but for kernel_locks_of().
#pragma once

#include <cstdint>
#include <string_view>

#include <fcntl.h>

#include "devices/fs/held_ranges.h"

namespace outrigger::fs {

struct KernelLocks {
    HeldRanges ranges{};       ///< F_OFD_SETLK
    uint32_t flock = F_UNLCK;  ///< flock(): F_RDLCK or F_WRLCK
};

/// Of the text of /proc/PID/fdinfo/FD (proc(5)). Lines that are no locks are passed over.
[[nodiscard]] KernelLocks parse_kernel_locks(std::string_view fdinfo);

/// Of a descriptor of this process; none where /proc cannot be read.
[[nodiscard]] KernelLocks kernel_locks_of(int fd);

}  // namespace outrigger::fs
