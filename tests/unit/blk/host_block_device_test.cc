// SPDX-License-Identifier: Apache-2.0
// What is told of a real block device of the host.
#include <cerrno>
#include <cstring>
#include <optional>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "devices/blk/blk_config.h"
#include "devices/blk/image_file.h"
#include "tests/support/loop_device.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

class HostBlockDevice : public testing::Test {
  protected:
    void SetUp() override {
        device_ = LoopDevice::create(backing_.fd(), 4096);
        if (!device_) {
            GTEST_SKIP() << "no loop device can be made here: " << std::strerror(errno);
        }
    }

    TemporaryImage backing_{16 << 20};
    std::optional<LoopDevice> device_;
};

TEST_F(HostBlockDevice, BlocksAreTheDevicesOwn) {
    const auto file = ImageFile::open({.path = device_->path()}).value();
    EXPECT_TRUE(file->is_block_device);
    EXPECT_EQ(file->properties.size_bytes, uint64_t{16} << 20);
    EXPECT_EQ(file->properties.block_bytes, 4096U);
    EXPECT_GE(file->properties.physical_block_bytes, 4096U);
    EXPECT_GE(file->properties.minimum_io_bytes, 4096U);
    EXPECT_EQ(file->properties.alignment_offset_bytes, 0U);
}

TEST_F(HostBlockDevice, DirectAccessKnowsTheSectors) {
    const auto file = ImageFile::open({.path = device_->path(), .direct = true}).value();
    EXPECT_EQ(file->offset_alignment, 4096U);
    EXPECT_EQ(file->properties.block_bytes, 4096U);
    EXPECT_EQ(file->block_locks, nullptr) << "blocks of the host's size pay nothing";
}

TEST_F(HostBlockDevice, SmallBlocksAreServedWhenAskedFor) {
    const auto file =
        ImageFile::open({.path = device_->path(), .direct = true, .block_bytes = 512}).value();
    EXPECT_EQ(file->properties.block_bytes, 512U);
    EXPECT_GE(file->properties.physical_block_bytes, 4096U) << "the guest should know";
    EXPECT_NE(file->block_locks, nullptr);
    EXPECT_GE(file->properties.discard_alignment_bytes, 4096U);
}

TEST_F(HostBlockDevice, SmallBlocksInThePageCacheNeedNoHelp) {
    const auto file = ImageFile::open({.path = device_->path(), .block_bytes = 512}).value();
    EXPECT_EQ(file->properties.block_bytes, 512U);
    EXPECT_EQ(file->block_locks, nullptr);
}

TEST_F(HostBlockDevice, WhatItCannotIsNotOffered) {
    const auto file = ImageFile::open({.path = device_->path()}).value();
    const FeatureSet features = make_features(file->properties, {});
    EXPECT_FALSE(features.has(VIRTIO_BLK_F_SECURE_ERASE));
    EXPECT_FALSE(features.has(kLifetimeFeature));
}

}  // namespace
}  // namespace outrigger::blk
