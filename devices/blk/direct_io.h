// SPDX-License-Identifier: Apache-2.0
/// What direct I/O (O_DIRECT) on a file asks of addresses and offsets. It is not always 512: it
/// depends on the file system, its device and even the file.
#pragma once

#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image.h"

namespace outrigger::blk {

struct DirectIoAlignment {
    uint32_t address = 512;  ///< of every buffer
    uint32_t offset = 512;   ///< of file offsets and of every buffer's length
};

/// Asks the kernel, and where it does not know, tries. `fd` was opened with O_DIRECT; `path` is
/// for the error.
[[nodiscard]] Result<DirectIoAlignment> probe_direct_io(int fd,
                                                        const ImageProperties& properties,
                                                        std::string_view path);

}  // namespace outrigger::blk
