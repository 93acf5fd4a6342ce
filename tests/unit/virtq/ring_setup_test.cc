// SPDX-License-Identifier: Apache-2.0
/// What Virtqueue::create() takes and refuses.
#include <expected>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint64_t kRegionBytes = 0x200000;
constexpr uint64_t kRing = 0x1000;

FrontendAddr moved(FrontendAddr address, int64_t by) {
    return FrontendAddr{static_cast<uint64_t>(address) + static_cast<uint64_t>(by)};
}

FrontendAddr frontend(uint64_t guest_address) {
    return FrontendAddr{guest_address + GuestMemory::kFrontendShift};
}

class RingSetupTest : public testing::Test {
  protected:
    Result<VringBase, VirtqueueSetupError> create(const VirtqueueConfig& config,
                                                  uint32_t base = 0) {
        auto created = Virtqueue::create(config, VringBase{base}, memory_.snapshot());
        if (!created) {
            return failure(created.error());
        }
        return (*created)->base();
    }

    void expect_refused(const VirtqueueConfig& config,
                        VirtqueueSetupError error,
                        uint32_t base = 0) {
        const auto created = create(config, base);
        ASSERT_FALSE(created.has_value());
        EXPECT_EQ(created.error(), error);
    }

    GuestMemory memory_{{{0, kRegionBytes}}};
    SplitRing split_{memory_, 16, kRing};
    PackedRing packed_{memory_, 16, kRing};
};

TEST_F(RingSetupTest, SplitSizes) {
    for (const uint16_t size : std::initializer_list<uint16_t>{1, 2, 256, 32768}) {
        EXPECT_TRUE(create(SplitRing(memory_, size, kRing).config()).has_value()) << size;
    }
    for (const uint16_t size : std::initializer_list<uint16_t>{0, 3, 255, 32767, 32769, 65535}) {
        expect_refused(SplitRing(memory_, size, kRing).config(), VirtqueueSetupError::kSize);
    }
}

TEST_F(RingSetupTest, PackedSizes) {
    for (const uint16_t size : std::initializer_list<uint16_t>{1, 3, 255, 32767, 32768}) {
        EXPECT_TRUE(create(PackedRing(memory_, size, kRing).config()).has_value()) << size;
    }
    for (const uint16_t size : std::initializer_list<uint16_t>{0, 32769, 65535}) {
        expect_refused(PackedRing(memory_, size, kRing).config(), VirtqueueSetupError::kSize);
    }
}

TEST_F(RingSetupTest, SplitAreasMustBeAligned) {
    VirtqueueConfig config = split_.config();
    config.descriptor_area = moved(config.descriptor_area, 8);
    expect_refused(config, VirtqueueSetupError::kAlignment);

    config = split_.config();
    config.driver_area = moved(config.driver_area, 1);
    expect_refused(config, VirtqueueSetupError::kAlignment);

    config = split_.config();
    config.device_area = moved(config.device_area, 2);
    expect_refused(config, VirtqueueSetupError::kAlignment);
}

TEST_F(RingSetupTest, PackedAreasMustBeAligned) {
    VirtqueueConfig config = packed_.config();
    config.descriptor_area = moved(config.descriptor_area, 8);
    expect_refused(config, VirtqueueSetupError::kAlignment);

    config = packed_.config();
    config.driver_area = moved(config.driver_area, 2);
    expect_refused(config, VirtqueueSetupError::kAlignment);

    config = packed_.config();
    config.device_area = moved(config.device_area, 2);
    expect_refused(config, VirtqueueSetupError::kAlignment);
}

TEST_F(RingSetupTest, SplitAreasMustLieInMemoryWithTheirWholeLength) {
    VirtqueueConfig config = split_.config();
    config.descriptor_area = frontend(kRegionBytes - 16 * 16);
    EXPECT_TRUE(create(config).has_value());
    config.descriptor_area = frontend(kRegionBytes - 16 * 15);
    expect_refused(config, VirtqueueSetupError::kUnmapped);

    config = split_.config();
    config.driver_area = frontend(kRegionBytes - (6 + 2 * 16));
    EXPECT_TRUE(create(config).has_value());
    config.driver_area = frontend(kRegionBytes - (4 + 2 * 16));
    expect_refused(config, VirtqueueSetupError::kUnmapped);

    config = split_.config();
    config.device_area = frontend(kRegionBytes - (8 + 8 * 16));
    EXPECT_TRUE(create(config).has_value());
    config.device_area = frontend(kRegionBytes - (4 + 8 * 16));
    expect_refused(config, VirtqueueSetupError::kUnmapped);
}

TEST_F(RingSetupTest, PackedAreasMustLieInMemoryWithTheirWholeLength) {
    VirtqueueConfig config = packed_.config();
    config.descriptor_area = frontend(kRegionBytes - 16 * 16);
    EXPECT_TRUE(create(config).has_value());
    config.descriptor_area = frontend(kRegionBytes - 16 * 15);
    expect_refused(config, VirtqueueSetupError::kUnmapped);

    config = packed_.config();
    config.driver_area = frontend(kRegionBytes);
    expect_refused(config, VirtqueueSetupError::kUnmapped);

    config = packed_.config();
    config.device_area = frontend(kRegionBytes);
    expect_refused(config, VirtqueueSetupError::kUnmapped);
}

TEST_F(RingSetupTest, AreaAddressThatWrapsIsRefused) {
    VirtqueueConfig config = split_.config();
    config.descriptor_area = FrontendAddr{~0ULL - 15};
    expect_refused(config, VirtqueueSetupError::kUnmapped);
}

TEST_F(RingSetupTest, GuestAddressesAreNotFrontendAddresses) {
    VirtqueueConfig config = split_.config();
    config.descriptor_area = FrontendAddr{kRing};
    expect_refused(config, VirtqueueSetupError::kUnmapped);
}

TEST_F(RingSetupTest, NothingOfTheRingIsWritten) {
    const std::string before = memory_.read(kRing, 0x1000);
    EXPECT_TRUE(create(split_.config(), 5).has_value());
    EXPECT_TRUE(create(packed_.config(), 0x80008000).has_value());
    EXPECT_EQ(memory_.read(kRing, 0x1000), before);
}

TEST_F(RingSetupTest, SplitBaseHasSixteenBits) {
    EXPECT_EQ(create(split_.config(), 0xffff)->raw, 0xffffU);
    expect_refused(split_.config(), VirtqueueSetupError::kBase, 0x10000);
}

TEST_F(RingSetupTest, PackedBaseIsKeptAsItCame) {
    EXPECT_EQ(create(packed_.config(), 0x80008000)->raw, 0x80008000U);
    EXPECT_EQ(create(packed_.config(), 0x800f0003)->raw, 0x800f0003U);
}

/// DPDK virtio-user sends a fresh packed base as 0x8000.
TEST_F(RingSetupTest, PackedBaseWithoutUsedHalfTakesTheAvailableOne) {
    EXPECT_EQ(create(packed_.config(), 0x8000)->raw, 0x80008000U);
    EXPECT_EQ(create(packed_.config(), 0x0007)->raw, 0x00070007U);
    EXPECT_EQ(create(packed_.config(), 0)->raw, 0U);
}

TEST_F(RingSetupTest, PackedBaseIndicesMustBeBelowTheSize) {
    EXPECT_TRUE(create(packed_.config(), 0x800f800f).has_value());
    expect_refused(packed_.config(), VirtqueueSetupError::kBase, 0x80008010);
    expect_refused(packed_.config(), VirtqueueSetupError::kBase, 0x80108000);
}

}  // namespace
}  // namespace outrigger::test
