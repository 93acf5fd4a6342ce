// SPDX-License-Identifier: Apache-2.0
// A disk that registers the guest's memory, while the front end takes that memory away, brings
// other memory and comes again. Where the host cannot (no O_DIRECT, no io_uring, or none of the
// right) the same must hold.
#include <vector>

#include <fcntl.h>

#include "vhost-user-backend/base/build.h"

#include "tests/integration/blk_test.h"

namespace outrigger::testing {
namespace {

using driver::Answer;
using driver::Segment;

constexpr uint32_t kBlock = 4096;

class BlkFixedMemory : public BlkTest {
  protected:
    void SetUp() override {
        if (kPortableBuild) {
            GTEST_SKIP() << "this build has no io_uring";
        }
        if (const auto file = ImageFile::open({.path = backing_.path(), .direct = true}); !file) {
            GTEST_SKIP() << file.error().message;
        }
    }

    [[nodiscard]] std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> file) override {
        return std::make_unique<FileImage>(std::move(file), IoEngineKind::kAuto, true);
    }

    /// A page of the data region, filled with `fill`.
    [[nodiscard]] Segment page(std::byte fill, bool device_writes) {
        const GuestAddr address = memory_.allocate(kBlock, kBlock, data_region_).value();
        memory_.write(address, std::vector<std::byte>(kBlock, fill));
        return {address, kBlock, device_writes};
    }

    int write(uint64_t block, std::byte fill) {
        return status_of_request(
            {header(VIRTIO_BLK_T_OUT, block * (kBlock / 512)), page(fill, false), writable(1)});
    }

    /// Does the block hold `fill`, as the guest sees it?
    bool reads(uint64_t block, std::byte fill) {
        const Segment data = page(std::byte{kUntouched}, true);
        const int status =
            status_of_request({header(VIRTIO_BLK_T_IN, block * (kBlock / 512)), data, writable(1)});
        return status == VIRTIO_BLK_S_OK && bytes_of(data) == std::vector(kBlock, fill);
    }

    void run_with_data_region() {
        ASSERT_NO_FATAL_FAILURE(run({.direct = true}));
        plug_data_region();
    }

    /// Memory of its own, which comes and goes.
    void plug_data_region() {
        data_region_ =
            memory_.add_region({.guest_address = GuestAddr{0x4000'0000}, .size = kDataBytes})
                .value();
        ASSERT_EQ(frontend_->add_mem_reg(memory_, data_region_), Answer::kAccepted);
    }

    void unplug_data_region() {
        ASSERT_EQ(frontend_->rem_mem_reg(memory_, data_region_), Answer::kAccepted);
        ASSERT_TRUE(memory_.remove_region(data_region_));
    }

    [[nodiscard]] bool registers() const {
        return device_->image()->fixed_memory().bytes > 0 ||
               device_->image()->fixed_memory().refusals > 0;
    }

    static constexpr uint64_t kDataBytes = 4 << 20;
    driver::RegionId data_region_{};
};

TEST_F(BlkFixedMemory, DataGoesBothWays) {
    run_with_data_region();
    EXPECT_EQ(write(3, std::byte{0x33}), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(3 * kBlock, kBlock, 0x33));
    EXPECT_TRUE(reads(3, std::byte{0x33}));
    EXPECT_TRUE(reads(4, std::byte{0}));
}

TEST_F(BlkFixedMemory, RequestsOfSeveralSegmentsPassToo) {
    run_with_data_region();
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_OUT, 0),
                                 page(std::byte{0x11}, false),
                                 page(std::byte{0x22}, false),
                                 writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_TRUE(reads(0, std::byte{0x11}));
    EXPECT_TRUE(reads(1, std::byte{0x22}));
}

// The kernel may map new memory where the old was.
TEST_F(BlkFixedMemory, MemoryThatTakesAnothersPlaceIsTheOneThatIsUsed) {
    run_with_data_region();
    for (int round = 1; round <= 8; ++round) {
        const auto fill = static_cast<std::byte>(round);
        ASSERT_EQ(write(0, fill), VIRTIO_BLK_S_OK);
        ASSERT_TRUE(backing_.holds(0, kBlock, round));
        ASSERT_TRUE(reads(0, fill)) << round;
        unplug_data_region();
        plug_data_region();
    }
}

TEST_F(BlkFixedMemory, WholeTableThatIsSentAgainIsTheOneThatIsUsed) {
    run_with_data_region();
    for (int round = 1; round <= 4; ++round) {
        const auto fill = static_cast<std::byte>(round);
        ASSERT_EQ(write(0, fill), VIRTIO_BLK_S_OK);
        ASSERT_NE(frontend_->set_mem_table(memory_), Answer::kRefused);
        ASSERT_TRUE(reads(0, fill)) << round;
    }
}

TEST_F(BlkFixedMemory, MemoryThatWentIsGivenBackBeforeTheAnswer) {
    run_with_data_region();
    ASSERT_TRUE(reads(0, std::byte{0}));
    if (!registers()) {
        GTEST_SKIP() << "no memory is registered here";
    }
    unplug_data_region();
    EXPECT_EQ(device_->image()->fixed_memory().bytes, 0U);
}

TEST_F(BlkFixedMemory, NothingStaysRegisteredWhenTheFrontEndLeaves) {
    run_with_data_region();
    ASSERT_TRUE(reads(0, std::byte{0}));
    if (!registers()) {
        GTEST_SKIP() << "no memory is registered here";
    }
    frontend_.reset();
    EXPECT_TRUE(eventually([&] { return device_->image()->fixed_memory().bytes == 0; }));
}

}  // namespace
}  // namespace outrigger::testing
