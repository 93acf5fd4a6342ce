// SPDX-License-Identifier: Apache-2.0
/// From the path of a file or device to the image that serves it.
#pragma once

#include <cstddef>
#include <memory>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/io_engine_kind.h"

namespace outrigger::blk {

struct RawImageOptions {
    ImageFileOptions file{};
    IoEngineKind engine = IoEngineKind::kAuto;
    bool fix_memory = false;  ///< see FileImage
    size_t polled_rings = 0;  ///< queues that poll for the ends of requests where the host can
};

/// A zoned device that is written past the page cache is served with its zones. Otherwise a
/// host-aware one, and any that is only read, is a disk like any other. What cannot be polled is
/// not, and the log says so.
[[nodiscard]] Result<std::unique_ptr<Image>> open_raw_image(RawImageOptions options);

}  // namespace outrigger::blk
