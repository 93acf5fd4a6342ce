// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/device_kinds.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>

#include <gtest/gtest.h>

namespace outrigger::vmm {
namespace {

constexpr FeatureSet kEverything = FeatureSet(~uint64_t{0});

TEST(DeviceKinds, NameTheSixAndTheirNumbers) {
    EXPECT_EQ(find_device_kind("net")->virtio_id, 1);
    EXPECT_EQ(find_device_kind("blk")->virtio_id, 2);
    EXPECT_EQ(find_device_kind("console")->virtio_id, 3);
    EXPECT_EQ(find_device_kind("rng")->virtio_id, 4);
    EXPECT_EQ(find_device_kind("vsock")->virtio_id, 19);
    EXPECT_EQ(find_device_kind("fs")->virtio_id, 26);
    EXPECT_EQ(find_device_kind("gpu"), nullptr);
}

TEST(DeviceKinds, ANumberThatIsNoneOfThemIsAnything) {
    const DeviceKind gpio = device_kind_of(41);
    EXPECT_EQ(gpio.virtio_id, 41);
    EXPECT_EQ(gpio.config_bytes, 256);
    EXPECT_TRUE(offered_to_driver(gpio, kEverything, true).has(23));
    EXPECT_EQ(device_kind_of(2).name, "blk");
}

TEST(DeviceKinds, OfferNothingThatTheFrontEndCannotCarry) {
    for (const DeviceKind& kind : device_kinds()) {
        const FeatureSet offered = offered_to_driver(kind, kEverything, true);
        EXPECT_TRUE(offered.has(VIRTIO_F_VERSION_1)) << kind.name;
        EXPECT_TRUE(offered.has(kRingPackedBit)) << kind.name;
        for (const unsigned bit : {24U,
                                   26U,  // LOG_ALL
                                   27U,
                                   30U,  // PROTOCOL_FEATURES
                                   33U,  // ACCESS_PLATFORM: there is no IOMMU
                                   37U,  // SR_IOV
                                   38U,  // NOTIFICATION_DATA: an eventfd carries none
                                   40U,  // RING_RESET
                                   41U,  // ADMIN_VQ
                                   42U,
                                   43U}) {
            EXPECT_FALSE(offered.has(bit)) << kind.name << " " << bit;
        }
    }
}

TEST(DeviceKinds, APackedRingNeedsABackEndThatKeepsABuffer) {
    EXPECT_FALSE(offered_to_driver(device_kind_of(2), kEverything, false).has(kRingPackedBit));
}

TEST(DeviceKinds, ADiskHasTheFeaturesOfADisk) {
    const FeatureSet offered = offered_to_driver(*find_device_kind("blk"), kEverything, true);
    EXPECT_TRUE(offered.has(VIRTIO_BLK_F_FLUSH));
    EXPECT_TRUE(offered.has(VIRTIO_BLK_F_MQ));
    EXPECT_FALSE(offered.has(0)) << "BARRIER is of legacy devices";
    EXPECT_FALSE(offered.has(7)) << "SCSI likewise";
}

TEST(DeviceKinds, ANetworkDeviceMayHaveAControlQueue) {
    const FeatureSet offered = offered_to_driver(*find_device_kind("net"), kEverything, true);
    EXPECT_TRUE(offered.has(17)) << "CTRL_VQ";
    EXPECT_TRUE(offered.has(22)) << "MQ";
    EXPECT_FALSE(offered.has(60)) << "RSS, which needs more of it";
    EXPECT_EQ(queue_count_of(*find_device_kind("net"), 9), 9);
    EXPECT_EQ(queue_count_of(*find_device_kind("net"), 1), 1) << "pairs, as DPDK counts";
}

TEST(DeviceKinds, CountQueuesAsTheBackEndDoesWhereTheKindLetsThem) {
    const DeviceKind& blk = *find_device_kind("blk");
    EXPECT_EQ(queue_count_of(blk, std::nullopt), 1);
    EXPECT_EQ(queue_count_of(blk, 64), 64);
    EXPECT_EQ(queue_count_of(blk, 256), 256);
    EXPECT_EQ(queue_count_of(blk, 257), std::nullopt);
    EXPECT_EQ(queue_count_of(blk, 0), std::nullopt);
    EXPECT_EQ(queue_count_of(*find_device_kind("fs"), 1), std::nullopt);
    EXPECT_EQ(queue_count_of(*find_device_kind("rng"), 16), 1);
    EXPECT_EQ(queue_count_of(*find_device_kind("rng"), 0), std::nullopt);
    EXPECT_EQ(queue_count_of(*find_device_kind("vsock"), std::nullopt), 3);
}

}  // namespace
}  // namespace outrigger::vmm
