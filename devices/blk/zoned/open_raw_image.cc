// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/open_raw_image.h"

#include <utility>

#include <fcntl.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/file_image.h"
#include "devices/blk/polled_rings.h"
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

/// Null where the host has nothing to poll.
Result<std::unique_ptr<PolledRings>> polled_rings_for(const ImageFile& file, size_t count) {
    if (count == 0) {
        return nullptr;
    }
    if (!file.can_poll) {
        log(LogLevel::kWarning,
            "blk: the host's device has no queues that can be polled: --io-poll changes nothing");
        return nullptr;
    }
    return PolledRings::create(count);
}

}  // namespace

Result<std::unique_ptr<Image>> open_raw_image(RawImageOptions options) {
    options.file.writes_zones = true;
    auto file = OUTRIGGER_TRY(ImageFile::open(options.file));
    ZonedParts zoned{.host = nullptr,
                     .below = nullptr,
                     .zoning = file->zoning,
                     .takes_turns = options.file.lock && options.file.lock_in_use};
    if (serves_zones(*file)) {
        zoned.host = OUTRIGGER_TRY(zone_host_beside(*file));
    }
    auto rings = OUTRIGGER_TRY(polled_rings_for(*file, options.polled_rings));
    auto image = std::make_unique<FileImage>(std::move(file), options.engine, options.fix_memory);
    image->use_polled_rings(std::move(rings));
    if (zoned.host == nullptr) {
        return image;
    }
    zoned.below = std::move(image);
    return ZonedImage::create(std::move(zoned));
}

}  // namespace outrigger::blk
