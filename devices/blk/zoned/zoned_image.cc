// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zoned_image.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

/// Of each disk: reports and changes of zones are rare, and what a guest asks for at once waits.
constexpr size_t kZoneThreads = 4;

/// In one append: as much as others take in one command.
constexpr uint32_t kAppendBytesMax = 1U << 20;

ImageProperties properties_of(const ZonedParts& parts) {
    ImageProperties properties = parts.below->properties();
    ImageZoning zoning = parts.zoning;
    zoning.write_granularity_bytes =
        std::max(zoning.write_granularity_bytes, properties.block_bytes);
    if (zoning.model == ZoneModel::kHostManaged) {
        zoning.append_bytes_max =
            static_cast<uint32_t>(std::min<uint64_t>(zoning.zone_bytes, kAppendBytesMax));
        // VIRTIO 1.3, 5.2.5.1: such a disk is not discarded, its zones are reset. The others would
        // be writes that move write pointers.
        properties.can_discard = false;
        properties.can_unmap_zeroes = false;
        properties.can_secure_erase = false;
        properties.can_write_zeroes = false;
    } else {
        // VIRTIO 1.3, 5.2.6: appends are for zones that must be written in order. An erasure would
        // have to be whole zones.
        zoning.append_bytes_max = 0;
        properties.can_secure_erase = false;
    }
    properties.zoning = zoning;
    return properties;
}

}  // namespace

Result<std::unique_ptr<ZonedImage>> ZonedImage::create(ZonedParts parts) {
    const ImageProperties properties = properties_of(parts);
    auto table =
        OUTRIGGER_TRY(ZoneTable::load(*parts.host, properties.size_bytes, properties.zoning));
    return std::unique_ptr<ZonedImage>(
        new ZonedImage(std::move(parts), properties, std::move(table)));
}

Result<uint64_t> ZonedImage::resize(std::optional<uint64_t> /*size_bytes*/) {
    return failure(Error{.message = "a zoned disk has the zones that it had when the daemon began: "
                                    "it cannot be resized"});
}

void ZonedImage::rest() {
    parts_.below->rest();
    const std::lock_guard lock(mutex_);
    must_forget_ = parts_.takes_turns;
}

/// What was learnt in an earlier turn may be wrong by now. Behind what took the turn.
void ZonedImage::forget_if_first() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(must_forget_, false)) {
        table_->forget();
    }
}

Result<IoThreadPool*> ZonedImage::threads() {
    const std::lock_guard lock(mutex_);
    if (!threads_) {
        threads_ = OUTRIGGER_TRY(IoThreadPool::start(kZoneThreads));
    }
    return threads_.get();
}

Result<std::unique_ptr<ImageQueue>> ZonedImage::open_queue(Worker& worker, uint32_t requests_max) {
    IoThreadPool* const helpers = OUTRIGGER_TRY(threads());
    auto below = OUTRIGGER_TRY(parts_.below->open_queue(worker, requests_max));
    forget_if_first();
    return std::make_unique<ZonedQueue>(shared_, std::move(below), *helpers, worker, requests_max);
}

}  // namespace outrigger::blk
