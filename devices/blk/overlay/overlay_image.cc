// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/overlay_image.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/overlay/overlay_queue.h"

namespace outrigger::blk {
namespace {

uint64_t base_bytes_of(const OverlayParts& parts) {
    return std::min(parts.base->properties().size_bytes, parts.journal->header().disk_bytes);
}

uint64_t base_clusters_of(const OverlayParts& parts) {
    const uint32_t cluster_bytes = parts.journal->header().cluster_bytes;
    return (base_bytes_of(parts) + cluster_bytes - 1) / cluster_bytes;
}

Result<void> check_findings(const LayerFindings& findings, const LayerHeader& header) {
    if (findings.pages_lost > 0 || findings.bits_beyond_end > 0) {
        return failure(Error{.message = fmt::format(
                                 "the overlay's layer is damaged: {} pages of its bitmap are lost, "
                                 "and {} bits lie behind the disk's end",
                                 findings.pages_lost,
                                 findings.bits_beyond_end)});
    }
    if (findings.copies_damaged > 0) {
        log(header.in_use ? LogLevel::kInfo : LogLevel::kWarning,
            "blk: {} metadata blocks of the overlay's layer were {}: their other copies are used",
            findings.copies_damaged,
            header.in_use ? "being written when it was last used" : "damaged");
    }
    return {};
}

}  // namespace

OverlayImage::OverlayImage(OverlayParts parts, const OverlaySettings& settings)
    : parts_(std::move(parts)),
      map_(parts_.journal->geometry(), base_clusters_of(parts_)),
      committer_(settings.read_only ? nullptr
                                    : std::make_unique<LayerCommitter>(*parts_.journal, map_)),
      shared_{.map = map_,
              .committer = committer_.get(),
              .disk_bytes = parts_.journal->header().disk_bytes,
              .base_bytes = base_bytes_of(parts_),
              .data_offset = parts_.journal->geometry().data_offset,
              .cluster_bytes = parts_.journal->header().cluster_bytes,
              .copy_on_read = settings.copy_on_read && !settings.read_only,
              .counters = counters_} {}

OverlayImage::~OverlayImage() = default;

Result<std::unique_ptr<OverlayImage>> OverlayImage::create(OverlayParts parts,
                                                           const OverlaySettings& settings) {
    auto image = std::unique_ptr<OverlayImage>(new OverlayImage(std::move(parts), settings));
    OUTRIGGER_TRY(image->set_up(settings));
    return image;
}

Result<void> OverlayImage::set_up(const OverlaySettings& settings) {
    OUTRIGGER_TRY(settle_properties(settings));
    if (const int os_error = parts_.journal->load(map_); os_error != 0) {
        return failure(error_from_code("cannot read the overlay's bitmap", os_error));
    }
    OUTRIGGER_TRY(check_findings(parts_.journal->findings(), parts_.journal->header()));
    if (!settings.read_only) {
        fill_ = OUTRIGGER_TRY(OverlayFill::create(shared_));
        fill_->set_rate(settings.fill_rate);
        if (settings.fill) {
            fill_->start();
        }
    }
    return {};
}

Result<void> OverlayImage::settle_properties(const OverlaySettings& settings) {
    const ImageProperties& base = parts_.base->properties();
    const ImageProperties& layer = parts_.layer->properties();
    const LayerHeader& header = parts_.journal->header();
    properties_ = layer;
    properties_.size_bytes = header.disk_bytes;
    properties_.block_bytes =
        std::max({base.block_bytes, layer.block_bytes, settings.block_bytes.value_or(512)});
    properties_.physical_block_bytes =
        std::max(layer.physical_block_bytes, properties_.block_bytes);
    properties_.alignment_offset_bytes = 0;
    properties_.read_only = settings.read_only;
    properties_.can_secure_erase = false;  // the base keeps what it holds
    properties_.tells_lifetime = false;
    // Only what reads as zeroes afterwards may be thrown away: the base must not shine through.
    properties_.can_discard = !settings.read_only && layer.can_unmap_zeroes;
    properties_.can_unmap_zeroes = properties_.can_discard;
    properties_.discard_alignment_bytes = header.cluster_bytes;
    if (properties_.block_bytes > header.cluster_bytes) {
        return failure(Error{.message = fmt::format(
                                 "the overlay's clusters of {} bytes are smaller than the block "
                                 "size {}: use a smaller --blk-size, or make the layer with larger "
                                 "--overlay-cluster",
                                 header.cluster_bytes,
                                 properties_.block_bytes)});
    }
    if (header.disk_bytes % properties_.block_bytes != 0) {
        return failure(
            Error{.message = fmt::format(
                      "the overlay's size, {} bytes, is not a multiple of its block size "
                      "{}: make the layer with a larger --overlay-size",
                      header.disk_bytes,
                      properties_.block_bytes)});
    }
    return {};
}

Result<void> OverlayImage::keep_memory(DeviceKeeper& keeper) {
    if (committer_ == nullptr) {
        return {};
    }
    const LayerGeometry& geometry = parts_.journal->geometry();
    const UniqueFd fd = OUTRIGGER_TRY(keeper.keep("bits", KeptBits::bytes(geometry)));
    kept_bits_ = OUTRIGGER_TRY(KeptBits::open(fd.get(), parts_.journal->header(), geometry));
    map_.keep_in(kept_bits_->words());
    return {};
}

Result<void> OverlayImage::start_threads() {
    const std::lock_guard lock(mutex_);
    if (threads_started_ || committer_ == nullptr) {
        return {};
    }
    OUTRIGGER_TRY(committer_->start());
    OUTRIGGER_TRY(fill_->launch(*parts_.base, *parts_.layer));
    threads_started_ = true;
    return {};
}

Result<std::unique_ptr<ImageQueue>> OverlayImage::open_queue(Worker& worker,
                                                             uint32_t requests_max) {
    OUTRIGGER_TRY(start_threads());
    auto base = OUTRIGGER_TRY(parts_.base->open_queue(worker, requests_max));
    auto layer = OUTRIGGER_TRY(parts_.layer->open_queue(worker, requests_max));
    return std::make_unique<OverlayQueue>(
        shared_, std::move(base), std::move(layer), worker, requests_max);
}

}  // namespace outrigger::blk
