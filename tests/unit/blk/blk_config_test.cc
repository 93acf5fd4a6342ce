// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_config.h"

#include <array>
#include <cstring>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

ImageProperties disk_with_large_physical_blocks() {
    return {.size_bytes = uint64_t{3} << 40,
            .block_bytes = 512,
            .physical_block_bytes = 4096,
            .alignment_offset_bytes = 3584,
            .minimum_io_bytes = 4096,
            .optimal_io_bytes = 1 << 20,
            .discard_alignment_bytes = 65536,
            .read_only = false,
            .can_discard = true,
            .can_unmap_zeroes = true};
}

/// What a driver would read, through the kernel's own idea of the layout.
virtio_blk_config read_as_driver(const BlkConfigSpace& space) {
    virtio_blk_config config;
    copy_config(space, 0, std::as_writable_bytes(std::span(&config, 1)));
    return config;
}

TEST(BlkConfig, CapacityCountsSectorsOf512Bytes) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.block_bytes = 4096;
    const auto config = read_as_driver(make_config_space(image, {}));
    EXPECT_EQ(config.capacity, (uint64_t{3} << 40) / 512);
    EXPECT_EQ(config.blk_size, 4096U);
}

TEST(BlkConfig, TellsTheHostsTopologyInLogicalBlocks) {
    const auto config = read_as_driver(make_config_space(disk_with_large_physical_blocks(), {}));
    EXPECT_EQ(config.physical_block_exp, 3);
    EXPECT_EQ(config.alignment_offset, 7);
    EXPECT_EQ(config.min_io_size, 8);
    EXPECT_EQ(config.opt_io_size, 2048U);
}

TEST(BlkConfig, MinimumIoSizeSaturates) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.minimum_io_bytes = 1U << 30;
    EXPECT_EQ(read_as_driver(make_config_space(image, {})).min_io_size, 0xffff);
}

TEST(BlkConfig, TellsLimitsThatTheParserEnforces) {
    const ImageProperties image = disk_with_large_physical_blocks();
    const BlkGeometry geometry = make_geometry(image, {});
    const auto config = read_as_driver(make_config_space(image, {}));
    EXPECT_EQ(config.max_discard_sectors, geometry.discard_sectors_max);
    EXPECT_EQ(config.max_discard_seg, geometry.discard_segments_max);
    EXPECT_EQ(config.max_write_zeroes_sectors, geometry.write_zeroes_sectors_max);
    EXPECT_EQ(config.max_write_zeroes_seg, geometry.write_zeroes_segments_max);
    EXPECT_GT(config.max_discard_sectors, 0U);
    EXPECT_GT(config.max_discard_seg, 1U);
    EXPECT_GT(config.max_write_zeroes_seg, 1U);
    EXPECT_EQ(config.discard_sector_alignment, 128U);
    EXPECT_EQ(config.write_zeroes_may_unmap, 1);
}

TEST(BlkConfig, SizeMaxIsNeverZero) {
    const auto config = read_as_driver(make_config_space(disk_with_large_physical_blocks(), {}));
    EXPECT_GE(config.size_max, 65536U);
    EXPECT_EQ(config.seg_max, 126U);
}

TEST(BlkConfig, MayNotUnmapWhatTheImageCannotUnmap) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.can_unmap_zeroes = false;
    EXPECT_EQ(read_as_driver(make_config_space(image, {})).write_zeroes_may_unmap, 0);
    EXPECT_FALSE(make_geometry(image, {}).unmap_zeroes);
}

TEST(BlkConfig, IgnoredDiscardsAreNotOffered) {
    const BlkShape shape{.queue_count = 1, .segments_max = 126, .discard = false};
    const ImageProperties image = disk_with_large_physical_blocks();
    EXPECT_FALSE(make_features(image, shape).has(VIRTIO_BLK_F_DISCARD));
    EXPECT_TRUE(make_features(image, shape).has(VIRTIO_BLK_F_WRITE_ZEROES));
    EXPECT_FALSE(make_geometry(image, shape).discard);
    EXPECT_FALSE(make_geometry(image, shape).unmap_zeroes);
    EXPECT_EQ(read_as_driver(make_config_space(image, shape)).max_discard_sectors, 0U);
}

TEST(BlkConfig, ReadOnlyDiskOffersFlushAndNothingThatWrites) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.read_only = true;
    const FeatureSet features = make_features(image, {});
    EXPECT_TRUE(features.has(VIRTIO_BLK_F_RO));
    EXPECT_TRUE(features.has(VIRTIO_BLK_F_FLUSH));
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_DISCARD));
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_WRITE_ZEROES));
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_CONFIG_WCE));
}

TEST(BlkConfig, SecureEraseIsOfferedWhereTheImageCanWithItsLimits) {
    ImageProperties image = disk_with_large_physical_blocks();
    EXPECT_FALSE(make_features(image, {}).has(VIRTIO_BLK_F_SECURE_ERASE));
    EXPECT_EQ(read_as_driver(make_config_space(image, {})).max_secure_erase_sectors, 0U);
    image.can_secure_erase = true;
    image.block_bytes = 4096;
    EXPECT_TRUE(make_features(image, {}).has(VIRTIO_BLK_F_SECURE_ERASE));
    const auto config = read_as_driver(make_config_space(image, {}));
    const BlkGeometry geometry = make_geometry(image, {});
    EXPECT_EQ(config.max_secure_erase_sectors, geometry.secure_erase_sectors_max);
    EXPECT_GT(config.max_secure_erase_sectors, 0U);
    EXPECT_EQ(config.max_secure_erase_seg, geometry.secure_erase_segments_max);
    EXPECT_GT(config.max_secure_erase_seg, 1U);
}

/// A Linux guest discards, too, by the smaller one of both alignments.
TEST(BlkConfig, ErasuresAreAlignedAsDiscardsAre) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.can_secure_erase = true;
    const auto config = read_as_driver(make_config_space(image, {}));
    EXPECT_EQ(config.discard_sector_alignment, 128U);
    EXPECT_EQ(config.secure_erase_sector_alignment, 128U);
}

/// A part of what the host can write at a time cannot be erased.
TEST(BlkConfig, ErasuresAreAlignedToTheBlocksOfTheHost) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.can_secure_erase = true;
    image.discard_alignment_bytes = 0;
    image.block_bytes = 512;
    image.physical_block_bytes = 4096;
    EXPECT_EQ(read_as_driver(make_config_space(image, {})).secure_erase_sector_alignment, 8U);
}

TEST(BlkConfig, ReadOnlyDiskErasesNothing) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.can_secure_erase = true;
    image.read_only = true;
    EXPECT_FALSE(make_features(image, {}).has(VIRTIO_BLK_F_SECURE_ERASE));
    EXPECT_FALSE(make_geometry(image, {}).secure_erase);
}

TEST(BlkConfig, LifetimeIsOfferedWhereTheImageTellsItAlsoReadOnly) {
    ImageProperties image = disk_with_large_physical_blocks();
    EXPECT_FALSE(make_features(image, {}).has(kLifetimeFeature));
    EXPECT_FALSE(make_geometry(image, {}).lifetime);
    image.tells_lifetime = true;
    image.read_only = true;
    EXPECT_TRUE(make_features(image, {}).has(kLifetimeFeature));
    EXPECT_TRUE(make_geometry(image, {}).lifetime);
}

TEST(BlkConfig, OffersSeveralQueuesOnlyWhenThereAreSome) {
    const ImageProperties image = disk_with_large_physical_blocks();
    EXPECT_FALSE(make_features(image, {.queue_count = 1}).has(VIRTIO_BLK_F_MQ));
    EXPECT_TRUE(make_features(image, {.queue_count = 2}).has(VIRTIO_BLK_F_MQ));
    EXPECT_EQ(read_as_driver(make_config_space(image, {.queue_count = 2})).num_queues, 2);
}

TEST(BlkConfig, LimitsAreWholeBlocks) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.block_bytes = 65536;
    const BlkGeometry geometry = make_geometry(image, {});
    EXPECT_EQ(geometry.discard_sectors_max % 128, 0U);
    EXPECT_EQ(geometry.write_zeroes_sectors_max % 128, 0U);
}

TEST(BlkConfig, ReadsAnyPartAndZeroesBehindTheEnd) {
    ImageProperties image = disk_with_large_physical_blocks();
    image.block_bytes = 4096;
    image.can_secure_erase = true;
    const BlkConfigSpace space = make_config_space(image, {});
    std::array<std::byte, 8> out;
    out.fill(std::byte{0xee});
    copy_config(space, offsetof(BlkConfigSpace, secure_erase_sector_alignment), out);
    EXPECT_EQ(out[0], std::byte{128});
    EXPECT_EQ(out[4], std::byte{0});  // zone_sectors
    out.fill(std::byte{0xee});
    copy_config(space, sizeof space - 4, out);
    EXPECT_EQ(out[0], std::byte{0});  // model
    EXPECT_EQ(out[4], std::byte{0});
    EXPECT_EQ(out[7], std::byte{0});
}

TEST(BlkConfig, ReadsZeroesFarBehindTheEnd) {
    const BlkConfigSpace space = make_config_space(disk_with_large_physical_blocks(), {});
    std::array<std::byte, 4> out;
    out.fill(std::byte{0xee});
    copy_config(space, kBlkConfigBytes - 4, out);
    EXPECT_EQ(out, (std::array<std::byte, 4>{}));
}

// --- Zones: VIRTIO 1.3, 5.2.5.2 ------------------------------------------------------------------

ImageProperties host_managed_disk() {
    return {.size_bytes = uint64_t{1} << 30,
            .block_bytes = 4096,
            .can_write_zeroes = false,
            .zoning = {.model = ZoneModel::kHostManaged,
                       .zone_bytes = 1 << 20,
                       .open_zones_max = 3,
                       .active_zones_max = 5,
                       .append_bytes_max = 131072,
                       .write_granularity_bytes = 8192}};
}

TEST(BlkConfig, DiskWithoutZonesDoesNotOfferThem) {
    EXPECT_FALSE(make_features(disk_with_large_physical_blocks(), {}).has(kZonedFeature));
}

TEST(BlkConfig, TellsOfZones) {
    const ImageProperties image = host_managed_disk();
    EXPECT_TRUE(make_features(image, {}).has(kZonedFeature));
    const BlkConfigSpace space = make_config_space(image, {});
    EXPECT_EQ(space.zoned.zone_sectors.value(), 2048U);
    EXPECT_EQ(space.zoned.max_open_zones.value(), 3U);
    EXPECT_EQ(space.zoned.max_active_zones.value(), 5U);
    EXPECT_EQ(space.zoned.max_append_sectors.value(), 256U);
    EXPECT_EQ(space.zoned.write_granularity.value(), 8192U);
    EXPECT_EQ(space.zoned.model, 1);
    EXPECT_EQ(offsetof(BlkConfigSpace, zoned), 72U);
}

TEST(BlkConfig, ZoneAppendFitsTheSegments) {
    ImageProperties image = host_managed_disk();
    image.zoning.append_bytes_max = 32 << 20;
    EXPECT_EQ(make_geometry(image, {.segments_max = 2}).append_sectors_max, (8U << 20) / 512);
}

TEST(BlkConfig, HostManagedDiskOffersNoWriteZeroesAndNoDiscard) {
    const FeatureSet features = make_features(host_managed_disk(), {});
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_WRITE_ZEROES));
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_DISCARD));
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_SECURE_ERASE));
    EXPECT_EQ(make_geometry(host_managed_disk(), {}).write_zeroes_segments_max, 0U);
}

}  // namespace
}  // namespace outrigger::blk
