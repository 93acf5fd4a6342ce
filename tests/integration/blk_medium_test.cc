// SPDX-License-Identifier: Apache-2.0
// What only some media of the host can: secure erase, and telling how worn they are.
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "vhost-user-backend/base/build.h"

#include "devices/blk/blk_config.h"
#include "tests/integration/blk_traps.h"

namespace outrigger::testing {
namespace {

class BlkMedium : public BlkTraps {
  protected:
    void SetUp() override {
        if (kPortableBuild) {
            GTEST_SKIP() << "no system but Linux has them";
        }
    }

    /// An image whose host says that it can, and whose attribute lies in a file of the test's.
    [[nodiscard]] std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> file) override {
        file->properties.can_secure_erase = true;
        file->properties.tells_lifetime = true;
        file->lifetime.push_back(
            {.kind = LifetimeAttribute::Kind::kEstimates,
             .fd = UniqueFd(::open(attribute_.path().c_str(), O_RDONLY | O_CLOEXEC))});
        return BlkTraps::make_image(std::move(file));
    }

    void tell(std::string_view text) {
        ASSERT_EQ(::ftruncate(attribute_.fd(), 0), 0);
        ASSERT_EQ(::pwrite(attribute_.fd(), text.data(), text.size(), 0),
                  static_cast<ssize_t>(text.size()));
    }

    int erase(std::vector<Segment> ranges) {
        ranges.insert(ranges.begin(), header(VIRTIO_BLK_T_SECURE_ERASE, 0));
        ranges.push_back(writable(1));
        return status_of_request(ranges);
    }

    TemporaryImage attribute_{0};
};

TEST_F(BlkMedium, LifetimeIsReadForEachRequest) {
    tell("0x01 0x02\n");
    run();
    EXPECT_TRUE(running_.agreement.features.has(kLifetimeFeature));
    const Segment answer = writable(6);
    const auto ask = [&] {
        return status_of_request({header(kGetLifetimeType, 0), answer, writable(1)});
    };
    const auto numbers = [](int a, int b) {
        return std::vector<std::byte>{
            std::byte{0}, std::byte{0}, std::byte(a), std::byte{0}, std::byte(b), std::byte{0}};
    };
    EXPECT_EQ(ask(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(last_length_, 7U);
    EXPECT_EQ(bytes_of(answer), numbers(1, 2));
    tell("0x03 0x0b\n");
    EXPECT_EQ(ask(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(bytes_of(answer), numbers(3, 11));
    tell("");
    EXPECT_EQ(ask(), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkMedium, SecureEraseReachesTheDeviceAndIsOkOnlyWhenItSaysSo) {
    run();
    EXPECT_TRUE(running_.agreement.features.has(VIRTIO_BLK_F_SECURE_ERASE));
    fault_.set_rule(answers(IoOpcode::kDeviceErase, 0));
    EXPECT_EQ(erase({range(8, 8), range(64, 128)}), VIRTIO_BLK_S_OK);
    const auto calls = fault_.calls(IoOpcode::kDeviceErase);
    ASSERT_EQ(calls.size(), 2U);
    EXPECT_EQ(calls[1].offset_bytes, 64U * 512);
    EXPECT_EQ(calls[1].length_bytes, 128U * 512);
    fault_.set_rule(answers(IoOpcode::kDeviceErase, -EOPNOTSUPP));
    EXPECT_EQ(erase({range(8, 8)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(erase({range(8, 8, 1)}), VIRTIO_BLK_S_UNSUPP) << "it has no flags";
}

TEST_F(BlkMedium, FrontEndReadsTheLimitsOfSecureErase) {
    discard_alignment_bytes_ = 65536;
    run();
    const auto config = frontend_->get_config(0, sizeof(BlkConfigSpace)).value();
    BlkConfigSpace space;
    ASSERT_EQ(config.size(), sizeof space);
    std::memcpy(&space, config.data(), sizeof space);
    EXPECT_GT(space.max_secure_erase_sectors.value(), 0U);
    EXPECT_EQ(space.max_secure_erase_seg.value(), kBlkRangesMax);
    EXPECT_EQ(space.secure_erase_sector_alignment.value(), 65536U / 512);
    std::vector<Segment> ranges(kBlkRangesMax + 1, range(0, 1));
    EXPECT_EQ(erase(ranges), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(erase({range(0, space.max_secure_erase_sectors.value() + 1)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(fault_.count(IoOpcode::kDeviceErase), 0U);
}

}  // namespace
}  // namespace outrigger::testing
