// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_config.h"

#include <algorithm>
#include <bit>
#include <limits>

#include <linux/virtio_blk.h>

namespace outrigger::blk {
namespace {

/// Never binding for Linux, whose requests end at 1280 KiB by default; it bounds other drivers.
constexpr uint32_t kSegmentBytesMax = 4U << 20;

/// Deallocating is cheap, so one segment may be long; the image cuts it up.
constexpr uint32_t kDiscardSectorsMax = (1U << 30) / kSectorBytes;

/// Zeroes may have to be written out, and a request must not hold its queue for long.
constexpr uint32_t kWriteZeroesSectorsMax = (32U << 20) / kSectorBytes;
constexpr uint32_t kWriteZeroesSegmentsMax = 8;

/// The kernel cuts an erasure up itself and cannot be told to stop, so one call stays short.
constexpr uint32_t kSecureEraseSectorsMax = (256U << 20) / kSectorBytes;

/// Segments are checked to be multiples of the block size, so their limit must be one too.
uint32_t whole_blocks(uint32_t sectors, uint32_t block_bytes) {
    return sectors - sectors % (block_bytes / kSectorBytes);
}

template <class T>
T saturate(uint64_t value) {
    return static_cast<T>(std::min<uint64_t>(value, std::numeric_limits<T>::max()));
}

bool offers_discard(const ImageProperties& image, const BlkShape& shape) {
    return shape.discard && image.can_discard && !image.read_only;
}

/// VIRTIO 1.3, 5.2.5.2: not more than a request's segments can hold.
uint32_t append_sectors_max(const ImageProperties& image, const BlkShape& shape) {
    const uint64_t room = uint64_t{shape.segments_max} * kSegmentBytesMax;
    const auto bytes =
        static_cast<uint32_t>(std::min<uint64_t>(image.zoning.append_bytes_max, room));
    return whole_blocks(bytes / kSectorBytes, image.block_bytes);
}

}  // namespace

BlkGeometry make_geometry(const ImageProperties& image, const BlkShape& shape) {
    BlkGeometry geometry;
    geometry.capacity_sectors = image.size_bytes / kSectorBytes;
    geometry.block_bytes = image.block_bytes;
    geometry.read_only = image.read_only;
    geometry.discard = offers_discard(image, shape);
    if (geometry.discard) {
        geometry.discard_sectors_max = whole_blocks(kDiscardSectorsMax, image.block_bytes);
        geometry.discard_segments_max = kBlkRangesMax;
    }
    if (!image.read_only && image.can_write_zeroes) {
        geometry.write_zeroes_sectors_max = whole_blocks(kWriteZeroesSectorsMax, image.block_bytes);
        geometry.write_zeroes_segments_max = kWriteZeroesSegmentsMax;
        geometry.unmap_zeroes = shape.discard && image.can_unmap_zeroes;
    }
    geometry.secure_erase = image.can_secure_erase && !image.read_only;
    if (geometry.secure_erase) {
        geometry.secure_erase_sectors_max = whole_blocks(kSecureEraseSectorsMax, image.block_bytes);
        geometry.secure_erase_segments_max = kBlkRangesMax;
    }
    geometry.lifetime = image.tells_lifetime;
    geometry.writes_need_zones = image.zoning.model == ZoneModel::kHostManaged;
    geometry.append_sectors_max = append_sectors_max(image, shape);
    return geometry;
}

BlkConfigSpace make_config_space(const ImageProperties& image, const BlkShape& shape) {
    const BlkGeometry geometry = make_geometry(image, shape);
    const uint32_t block = image.block_bytes;
    BlkConfigSpace space;
    space.capacity = geometry.capacity_sectors;
    space.size_max = kSegmentBytesMax;
    space.seg_max = shape.segments_max;
    space.blk_size = block;
    const uint32_t physical = std::max(image.physical_block_bytes, block);
    space.physical_block_exp = static_cast<uint8_t>(std::countr_zero(physical / block));
    space.alignment_offset = saturate<uint8_t>(image.alignment_offset_bytes / block);
    space.min_io_size = saturate<uint16_t>(image.minimum_io_bytes / block);
    space.opt_io_size = image.optimal_io_bytes / block;
    space.num_queues = shape.queue_count;
    if (geometry.discard) {
        space.max_discard_sectors = geometry.discard_sectors_max;
        space.max_discard_seg = geometry.discard_segments_max;
        space.discard_sector_alignment =
            std::max(image.discard_alignment_bytes, block) / kSectorBytes;
    }
    space.max_write_zeroes_sectors = geometry.write_zeroes_sectors_max;
    space.max_write_zeroes_seg = geometry.write_zeroes_segments_max;
    space.write_zeroes_may_unmap = geometry.unmap_zeroes ? 1 : 0;
    if (geometry.secure_erase) {
        space.max_secure_erase_sectors = geometry.secure_erase_sectors_max;
        space.max_secure_erase_seg = geometry.secure_erase_segments_max;
        // Not less than the host's units: Linux takes the smaller of the two alignments for both.
        space.secure_erase_sector_alignment =
            std::max(image.discard_alignment_bytes, physical) / kSectorBytes;
    }
    if (image.zoning.model != ZoneModel::kNone) {
        space.zoned.zone_sectors = static_cast<uint32_t>(image.zoning.zone_bytes / kSectorBytes);
        space.zoned.max_open_zones = image.zoning.open_zones_max;
        space.zoned.max_active_zones = image.zoning.active_zones_max;
        space.zoned.max_append_sectors = geometry.append_sectors_max;
        space.zoned.write_granularity = image.zoning.write_granularity_bytes;
        space.zoned.model = static_cast<uint8_t>(image.zoning.model);
    }
    return space;
}

FeatureSet make_features(const ImageProperties& image, const BlkShape& shape) {
    FeatureSet features = FeatureSet::of({VIRTIO_BLK_F_SIZE_MAX,
                                          VIRTIO_BLK_F_SEG_MAX,
                                          VIRTIO_BLK_F_BLK_SIZE,
                                          VIRTIO_BLK_F_TOPOLOGY,
                                          VIRTIO_BLK_F_FLUSH});
    if (shape.queue_count > 1) {
        features = features.with(VIRTIO_BLK_F_MQ);
    }
    if (image.tells_lifetime) {
        features = features.with(kLifetimeFeature);
    }
    if (image.zoning.model != ZoneModel::kNone) {
        features = features.with(kZonedFeature);
    }
    if (image.read_only) {
        return features.with(VIRTIO_BLK_F_RO);
    }
    features = features.with(VIRTIO_BLK_F_CONFIG_WCE);
    if (image.can_write_zeroes) {
        features = features.with(VIRTIO_BLK_F_WRITE_ZEROES);
    }
    if (offers_discard(image, shape)) {
        features = features.with(VIRTIO_BLK_F_DISCARD);
    }
    if (image.can_secure_erase) {
        features = features.with(VIRTIO_BLK_F_SECURE_ERASE);
    }
    return features;
}

void copy_config(const BlkConfigSpace& space, uint32_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    const auto bytes = std::as_bytes(std::span(&space, 1));
    if (offset < bytes.size()) {
        const auto part = bytes.subspan(offset);
        std::ranges::copy(part.first(std::min(part.size(), out.size())), out.begin());
    }
}

}  // namespace outrigger::blk
