// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/open_raw_image.h"

#include <utility>

#include <fcntl.h>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/file_image.h"
#include "devices/blk/zoned/zoned_image.h"

namespace outrigger::blk {
namespace {

bool serves_zones(const ImageFile& file) {
    return file.zoning.model != ZoneModel::kNone && file.direct && !file.properties.read_only &&
           file.block_locks == nullptr;
}

/// It keeps a descriptor of its own of the same open file, and so the image's lock.
Result<std::unique_ptr<ZoneHost>> zone_host_beside(const ImageFile& file) {
    UniqueFd device(::fcntl(file.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!device.valid()) {
        return failure(error_from_errno("cannot use the zoned device"));
    }
    return zone_host_of(std::move(device));
}

}  // namespace

Result<std::unique_ptr<Image>> open_raw_image(ImageFileOptions options,
                                              IoEngineKind engine,
                                              bool fix_memory) {
    options.writes_zones = true;
    auto file = OUTRIGGER_TRY(ImageFile::open(options));
    ZonedParts zoned{.host = nullptr,
                     .below = nullptr,
                     .zoning = file->zoning,
                     .takes_turns = options.lock && options.lock_in_use};
    if (serves_zones(*file)) {
        zoned.host = OUTRIGGER_TRY(zone_host_beside(*file));
    }
    auto image = std::make_unique<FileImage>(std::move(file), engine, fix_memory);
    if (zoned.host == nullptr) {
        return image;
    }
    zoned.below = std::move(image);
    return ZonedImage::create(std::move(zoned));
}

}  // namespace outrigger::blk
