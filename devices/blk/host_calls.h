// SPDX-License-Identifier: Apache-2.0
/// What systems do to files in ways of their own. The build compiles host_calls_linux.cc or
/// host_calls_portable.cc.
#pragma once

#include <cstdint>
#include <optional>

#include "devices/blk/direct_io.h"
#include "devices/blk/io_engine.h"

namespace outrigger::blk {

/// Makes the operation's system call, blocking, and returns what the call did: -1 with errno set
/// when it failed; EOPNOTSUPP, ENOSYS or ENOTTY where the system has no such call.
[[nodiscard]] int64_t call_host(int fd, const IoOperation& operation);

/// The flag for open() that goes past the page cache; nothing where there is none.
[[nodiscard]] std::optional<int> direct_open_flag();

/// What the kernel says that direct I/O on the file asks for; nothing when it does not know.
[[nodiscard]] std::optional<DirectIoAlignment> ask_direct_io_alignment(int fd);

/// Can this file system make holes in the file? Tried behind `size_bytes`, the file's end, where it
/// changes nothing.
[[nodiscard]] bool can_punch_holes(int fd, uint64_t size_bytes);

}  // namespace outrigger::blk
