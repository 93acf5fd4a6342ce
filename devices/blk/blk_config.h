// SPDX-License-Identifier: Apache-2.0
/// The block device's configuration space and feature bits. VIRTIO 1.3, 5.2.3 and 5.2.4.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/little_endian.h"

#include "devices/blk/blk_request.h"
#include "devices/blk/image.h"

namespace outrigger::blk {

/// Its spelling follows the specification's struct virtio_blk_config, as far as we fill it.
struct BlkConfigSpace {
    Le64 capacity;  // in 512-byte sectors
    Le32 size_max;
    Le32 seg_max;
    Le16 cylinders;
    uint8_t heads = 0;
    uint8_t sectors = 0;
    Le32 blk_size;
    uint8_t physical_block_exp = 0;
    uint8_t alignment_offset = 0;  // in logical blocks
    Le16 min_io_size;              // in logical blocks
    Le32 opt_io_size;              // in logical blocks
    uint8_t writeback = 0;
    uint8_t unused0 = 0;
    Le16 num_queues;
    Le32 max_discard_sectors;
    Le32 max_discard_seg;
    Le32 discard_sector_alignment;
    Le32 max_write_zeroes_sectors;
    Le32 max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap = 0;
    uint8_t unused1[3] = {};
    Le32 max_secure_erase_sectors;
    Le32 max_secure_erase_seg;
    Le32 secure_erase_sector_alignment;

    struct Zoned {
        Le32 zone_sectors;
        Le32 max_open_zones;
        Le32 max_active_zones;
        Le32 max_append_sectors;
        Le32 write_granularity;  // in bytes
        uint8_t model = 0;
        uint8_t unused2[3] = {};
    } zoned;
};

static_assert(sizeof(BlkConfigSpace) == 96);

/// VIRTIO 1.3, 5.2.3. Linux headers before 6.2 do not have it.
inline constexpr unsigned kLifetimeFeature = 15;

/// The same, of headers before 6.3.
inline constexpr unsigned kZonedFeature = 17;

/// The vhost-user maximum. Front ends ask for as much as the newest struct they know has, so
/// everything behind our fields reads as zero.
inline constexpr uint16_t kBlkConfigBytes = 256;

/// The one byte a driver may write.
inline constexpr uint32_t kWritebackOffset = offsetof(BlkConfigSpace, writeback);
static_assert(kWritebackOffset == 32);

/// What the user chose, on top of what the image is.
struct BlkShape {
    uint16_t queue_count = 1;
    uint32_t segments_max = 126;  ///< data segments of one request
    bool discard = true;          ///< pass deallocation on to the image
};

/// The limits that requests are checked against, fitting what the configuration space says.
[[nodiscard]] BlkGeometry make_geometry(const ImageProperties& image, const BlkShape& shape);

/// All fields but `writeback`, which changes at run time. Those of zones are for a driver that took
/// kZonedFeature, or has yet to say.
[[nodiscard]] BlkConfigSpace make_config_space(const ImageProperties& image, const BlkShape& shape);

[[nodiscard]] FeatureSet make_features(const ImageProperties& image, const BlkShape& shape);

/// Copies [offset, offset + out.size()) of the space to `out`; zeroes behind its end.
void copy_config(const BlkConfigSpace& space, uint32_t offset, std::span<std::byte> out);

}  // namespace outrigger::blk
