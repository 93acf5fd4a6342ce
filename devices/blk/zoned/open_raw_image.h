// SPDX-License-Identifier: Apache-2.0
/// From the path of a file or device to the image that serves it.
#pragma once

#include <memory>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/io_engine_kind.h"

namespace outrigger::blk {

/// A zoned device that is written past the page cache is served with its zones. Otherwise a
/// host-aware one, and any that is only read, is a disk like any other.
[[nodiscard]] Result<std::unique_ptr<Image>> open_raw_image(ImageFileOptions options,
                                                            IoEngineKind engine,
                                                            bool fix_memory);

}  // namespace outrigger::blk
