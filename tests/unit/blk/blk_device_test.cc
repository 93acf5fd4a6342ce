// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_device.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string_view>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "devices/blk/null_image.h"
#include "tests/unit/blk/disk_bench.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kDiskBytes = uint64_t{1} << 32;

ImageProperties disk_of(uint64_t size_bytes) {
    ImageProperties properties;
    properties.size_bytes = size_bytes;
    properties.can_discard = true;
    properties.can_unmap_zeroes = true;
    properties.can_secure_erase = true;
    properties.tells_lifetime = true;
    return properties;
}

class BlkDeviceTest : public testing::Test {
  protected:
    static std::unique_ptr<HeldImage> make_image(HeldImage*& pointer) {
        auto image = std::make_unique<HeldImage>(disk_of(kDiskBytes));
        pointer = image.get();
        return image;
    }

    ChainRecipe read_chain(uint64_t sector, uint32_t size) {
        auto recipe = bench_.chain();
        recipe.readable(header_bytes(VIRTIO_BLK_T_IN, sector)).writable(size).writable(1);
        return recipe;
    }

    ChainRecipe write_chain(uint64_t sector, uint32_t size) {
        auto recipe = bench_.chain();
        recipe.readable(header_bytes(VIRTIO_BLK_T_OUT, sector)).readable_zeroes(size).writable(1);
        return recipe;
    }

    /// A write goes to the image: was it asked to be stable?
    bool write_is_stable() {
        const auto recipe = write_chain(0, 512);
        bench_.add(recipe);
        (void)bench_.process();
        const bool stable = image_->request().stable;
        image_->end();
        EXPECT_TRUE(bench_.completion());
        return stable;
    }

    int writeback_byte() {
        std::byte value{};
        bench_.device().read_config(ConfigOffset{kWritebackOffset}, std::span(&value, 1));
        return std::to_integer<int>(value);
    }

    Result<void, ConfigError> write_writeback(int value) {
        const auto byte = static_cast<std::byte>(value);
        return bench_.device().write_config(ConfigOffset{kWritebackOffset}, std::span(&byte, 1));
    }

    void negotiate(std::initializer_list<unsigned> bits) {
        bench_.device().on_negotiated(FeatureSet::of(bits));
    }

    HeldImage* image_ = nullptr;
    DiskBench bench_{make_image(image_), {.serial = "ABC-123"}};
};

// --- Answers -------------------------------------------------------------------------------------

TEST_F(BlkDeviceTest, ReadIsAnsweredWhenTheImageEndsIt) {
    const auto recipe = read_chain(5, 1024);
    bench_.add(recipe);
    EXPECT_EQ(bench_.process(), QueueProgress::kDrained);
    EXPECT_FALSE(bench_.completion());
    EXPECT_EQ(recipe.status(), kUntouchedStatus);
    EXPECT_EQ(image_->request().command, ImageCommand::kRead);
    EXPECT_EQ(image_->request().offset_bytes, 5U * 512);
    EXPECT_EQ(image_->request().length_bytes, 1024U);
    image_->end();
    const auto used = bench_.completion();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->length, 1025U) << "data and status (trap 12)";
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(bench_.counters().completed.value(BlkCommand::kRead), 1U);
    EXPECT_EQ(bench_.counters().bytes_read.value(), 1024U);
}

TEST_F(BlkDeviceTest, WriteIsAnsweredWithTheStatusAlone) {
    const auto recipe = write_chain(1, 512);
    bench_.add(recipe);
    (void)bench_.process();
    image_->end();
    EXPECT_EQ(bench_.completion()->length, 1U);
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(bench_.counters().bytes_written.value(), 512U);
}

TEST_F(BlkDeviceTest, HostErrorsAreIoErrors) {
    const auto recipe = write_chain(1, 512);
    bench_.add(recipe);
    (void)bench_.process();
    image_->end(ENOSPC);
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(bench_.counters().failed.value(BlkCommand::kWrite), 1U);
    EXPECT_EQ(bench_.counters().bytes_written.value(), 0U);
}

// A file system in user space may answer anything; the guest's memory is there.
TEST_F(BlkDeviceTest, BadAddressOfTheImagesOwnIsAnIoErrorAndBreaksNothing) {
    const auto recipe = write_chain(1, 512);
    bench_.add(recipe);
    (void)bench_.process();
    image_->end(EFAULT);
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_IOERR);
    EXPECT_FALSE(bench_.queue().broken());
}

TEST_F(BlkDeviceTest, RequestsMayEndInAnyOrder) {
    const auto first = read_chain(0, 512);
    const auto second = read_chain(1, 512);
    bench_.add(first);
    bench_.add(second);
    (void)bench_.process();
    image_->end_newest();
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(first.status(), kUntouchedStatus);
    EXPECT_EQ(second.status(), VIRTIO_BLK_S_OK);
    image_->end();
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(first.status(), VIRTIO_BLK_S_OK);
}

// Trap 1: the usual flush has no data at all.
TEST_F(BlkDeviceTest, FlushWithoutDataReachesTheImage) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_FLUSH, 0)).writable(1);
    bench_.add(recipe);
    (void)bench_.process();
    ASSERT_EQ(image_->held(), 1U);
    EXPECT_EQ(image_->request().command, ImageCommand::kFlush);
    image_->end(EIO);
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkDeviceTest, DiscardReachesTheImageWithAllItsSegments) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(8, 8, 0));
    recipe.readable(segment_bytes(64, 1, 0)).writable(1);
    bench_.add(recipe);
    (void)bench_.process();
    ASSERT_EQ(image_->held(), 1U);
    ASSERT_EQ(image_->request().ranges.size(), 2U);
    EXPECT_EQ(image_->request().ranges[1].offset_bytes, 64U * 512);
    image_->end();
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
}

TEST_F(BlkDeviceTest, SecureEraseReachesTheImage) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_SECURE_ERASE, 0)).readable(segment_bytes(8, 16, 0));
    recipe.writable(1);
    bench_.add(recipe);
    (void)bench_.process();
    ASSERT_EQ(image_->held(), 1U);
    EXPECT_EQ(image_->request().command, ImageCommand::kSecureErase);
    ASSERT_EQ(image_->request().ranges.size(), 1U);
    EXPECT_EQ(image_->request().ranges[0].length_bytes, 16U * 512);
    image_->end(EOPNOTSUPP);
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_IOERR) << "never OK for what was not erased";
}

TEST_F(BlkDeviceTest, LifetimeIsWhatTheImageTellsInThreeNumbers) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(kGetLifetimeType, 0)).writable(4).writable(4).writable(1);
    bench_.add(recipe);
    (void)bench_.process();
    ASSERT_EQ(image_->held(), 1U);
    EXPECT_EQ(image_->request().command, ImageCommand::kGetLifetime);
    image_->request().lifetime = {.pre_end_of_life = 2, .estimate_a = 0x0b, .estimate_b = 0x102};
    image_->end();
    const auto used = bench_.completion();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->length, 9U);
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
    const auto bytes = [](std::initializer_list<int> values) {
        std::vector<std::byte> out;
        std::ranges::transform(values, std::back_inserter(out), [](int v) { return std::byte(v); });
        return out;
    };
    EXPECT_EQ(recipe.bytes(1), bytes({2, 0, 0x0b, 0}));
    EXPECT_EQ(recipe.bytes(2), bytes({2, 1, 0xee, 0xee})) << "nothing behind the three";
}

TEST_F(BlkDeviceTest, LifetimeThatCannotBeToldIsAnIoErrorAndTouchesNothing) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(kGetLifetimeType, 0)).writable(6).writable(1);
    bench_.add(recipe);
    (void)bench_.process();
    image_->end(ENODEV);
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(recipe.bytes(1), std::vector<std::byte>(6, std::byte{0xee}));
}

TEST_F(BlkDeviceTest, RefusedRequestDoesNotReachTheImage) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_IN, kDiskBytes / 512)).writable(512).writable(1);
    EXPECT_EQ(bench_.answer_to(recipe), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(image_->held(), 0U);
    EXPECT_EQ(recipe.bytes(1), std::vector<std::byte>(512, std::byte{0xee}));
    EXPECT_EQ(bench_.counters().refused.value(BlkRefusal::kBeyondEnd), 1U);
}

TEST_F(BlkDeviceTest, UnknownTypeIsUnsupported) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(0x1234, 0)).writable(1);
    EXPECT_EQ(bench_.answer_to(recipe), VIRTIO_BLK_S_UNSUPP);
}

// Row 47: without a status byte there is no answer; the ring breaks and the chain comes back.
TEST_F(BlkDeviceTest, ChainWithoutStatusBreaksTheRing) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_FLUSH, 0));
    bench_.add(recipe);
    (void)bench_.process();
    EXPECT_EQ(bench_.queue().broken(), RingError::kDevice);
    EXPECT_EQ(bench_.counters().refused.value(BlkRefusal::kNoStatus), 1U);
    EXPECT_EQ(bench_.queue().in_flight(), 0U);
}

TEST_F(BlkDeviceTest, RequestsInFlightStillEndOnABrokenRing) {
    bench_.add(read_chain(0, 512));
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_FLUSH, 0));
    bench_.add(recipe);
    (void)bench_.process();
    ASSERT_TRUE(bench_.queue().broken());
    image_->end();
    EXPECT_EQ(bench_.queue().in_flight(), 0U);
}

// --- GET_ID --------------------------------------------------------------------------------------

TEST_F(BlkDeviceTest, IdIsPaddedWithNuls) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_GET_ID, 0)).writable(20).writable(1);
    EXPECT_EQ(bench_.answer_to(recipe), VIRTIO_BLK_S_OK);
    EXPECT_EQ(bench_.last_length(), 21U);
    std::string_view expected("ABC-123\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    const auto bytes = recipe.bytes(1);
    EXPECT_TRUE(std::ranges::equal(bytes, std::as_bytes(std::span(expected))));
}

TEST_F(BlkDeviceTest, ShortIdBufferGetsTheBeginning) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_GET_ID, 0)).writable(2).writable(1).writable(1);
    EXPECT_EQ(bench_.answer_to(recipe), VIRTIO_BLK_S_OK);
    EXPECT_EQ(recipe.bytes(1)[1], std::byte{'B'});
    EXPECT_EQ(recipe.bytes(2)[0], std::byte{'C'});
}

TEST_F(BlkDeviceTest, NoIdBufferIsAnsweredAllTheSame) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_GET_ID, 0)).writable(1);
    EXPECT_EQ(bench_.answer_to(recipe), VIRTIO_BLK_S_OK);
}

TEST_F(BlkDeviceTest, LongIdBufferIsLeftAloneBehindTheId) {
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_GET_ID, 0)).writable(21).writable(1);
    EXPECT_EQ(bench_.answer_to(recipe), VIRTIO_BLK_S_OK);
    EXPECT_EQ(recipe.bytes(1)[20], std::byte{0xee});
}

// --- Write cache: trap 2, row 49 -----------------------------------------------------------------

TEST_F(BlkDeviceTest, DriverThatCanFlushGetsAWriteBackCache) {
    negotiate({VIRTIO_BLK_F_FLUSH});
    EXPECT_EQ(writeback_byte(), 1);
    EXPECT_FALSE(write_is_stable());
}

TEST_F(BlkDeviceTest, DriverThatCannotFlushGetsStableWrites) {
    negotiate({});
    EXPECT_TRUE(write_is_stable());
}

// VIRTIO 1.3, 5.2.5.2: CONFIG_WCE without FLUSH starts at 0.
TEST_F(BlkDeviceTest, DriverThatCannotFlushReadsWriteThrough) {
    negotiate({VIRTIO_BLK_F_CONFIG_WCE});
    EXPECT_EQ(writeback_byte(), 0);
    EXPECT_TRUE(write_is_stable());
    EXPECT_FALSE(write_writeback(1));
    EXPECT_EQ(writeback_byte(), 0);
}

TEST_F(BlkDeviceTest, DriverSwitchesTheCacheOffAndOn) {
    negotiate({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE});
    EXPECT_TRUE(write_writeback(0));
    EXPECT_EQ(writeback_byte(), 0);
    EXPECT_TRUE(write_is_stable());
    EXPECT_TRUE(write_writeback(1));
    EXPECT_EQ(writeback_byte(), 1);
    EXPECT_FALSE(write_is_stable());
}

TEST_F(BlkDeviceTest, ModeIsThatOfTheMomentOfSubmission) {
    negotiate({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE});
    ASSERT_TRUE(write_writeback(0));
    const auto recipe = write_chain(0, 512);
    bench_.add(recipe);
    (void)bench_.process();
    ASSERT_TRUE(write_writeback(1));
    EXPECT_TRUE(image_->request().stable);
    image_->end();
}

TEST_F(BlkDeviceTest, CacheModeTakesOnly0And1) {
    negotiate({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE});
    EXPECT_EQ(write_writeback(2).error(), ConfigError::kValue);
    EXPECT_EQ(writeback_byte(), 1);
}

TEST_F(BlkDeviceTest, NothingElseOfTheConfigurationCanBeWritten) {
    const std::array<std::byte, 2> bytes{};
    auto& device = bench_.device();
    EXPECT_FALSE(device.write_config(ConfigOffset{0}, std::span(bytes).first(1)));
    EXPECT_FALSE(device.write_config(ConfigOffset{kWritebackOffset - 1}, bytes));
    EXPECT_FALSE(device.write_config(ConfigOffset{kWritebackOffset}, bytes));
    EXPECT_FALSE(
        device.write_config(ConfigOffset{kWritebackOffset + 1}, std::span(bytes).first(1)));
}

TEST_F(BlkDeviceTest, ResetKeepsTheWriteThroughThatAGuestChose) {
    negotiate({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE});
    ASSERT_TRUE(write_writeback(0));
    bench_.device().reset();
    EXPECT_EQ(writeback_byte(), 0);
    negotiate({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE});
    EXPECT_TRUE(write_is_stable());
}

TEST(BlkDevice, ResetRestoresTheWriteThroughOfTheUser) {
    BlkDevice device(std::make_unique<HeldImage>(disk_of(kDiskBytes)),
                     {.write_back_at_reset = false});
    device.on_negotiated(FeatureSet::of({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE}));
    std::byte value{1};
    ASSERT_TRUE(device.write_config(ConfigOffset{kWritebackOffset}, std::span(&value, 1)));
    device.reset();
    device.read_config(ConfigOffset{kWritebackOffset}, std::span(&value, 1));
    EXPECT_EQ(value, std::byte{0});
}

TEST(BlkDevice, StartsWithTheCacheModeOfTheUser) {
    BlkDevice device(std::make_unique<HeldImage>(disk_of(kDiskBytes)),
                     {.write_back_at_reset = false});
    device.on_negotiated(FeatureSet::of({VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE}));
    std::byte value{9};
    device.read_config(ConfigOffset{kWritebackOffset}, std::span(&value, 1));
    EXPECT_EQ(value, std::byte{0});
}

// --- Back-pressure: trap 15, row 50 --------------------------------------------------------------

TEST_F(BlkDeviceTest, TakesNoMoreWhileTooManyBytesAreInFlight) {
    // Each request names the same 4 MiB of guest memory 16 times: 64 MiB.
    auto recipe = bench_.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_IN, 0)).writable(4 << 20);
    std::vector<driver::Segment> segments(recipe.segments().begin(), recipe.segments().end());
    const driver::Segment data = segments.back();
    for (int i = 0; i < 13; ++i) {
        segments.push_back(data);
    }
    const auto status = bench_.chain().writable(1).segments()[0];
    segments.push_back(status);
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(bench_.driver().try_add(segments, 0, driver::ChainLayout::kIndirect));
    }
    bench_.driver().publish();
    EXPECT_EQ(bench_.process(), QueueProgress::kWaiting);
    EXPECT_EQ(image_->held(), 2U);
    EXPECT_EQ(bench_.counters().waits.value(), 1U);
    EXPECT_LT(bench_.counters().bytes_in_flight.value(), BlkQueue::kBytesMax + (64U << 20));
    EXPECT_FALSE(bench_.queue().take_processing_request());
    image_->end();
    EXPECT_TRUE(bench_.queue().take_processing_request()) << "a completion ends the wait";
    for (int i = 0; i < 20 && image_->held() > 0; ++i) {
        (void)bench_.process();
        image_->end();
    }
    EXPECT_EQ(bench_.counters().completed.value(BlkCommand::kRead), 20U);
}

TEST_F(BlkDeviceTest, AFullQueueOfRequestsIsServedWithoutWaiting) {
    const auto recipe = read_chain(0, 512);
    for (int i = 0; i < DiskBench::kQueueSize; ++i) {
        ASSERT_TRUE(bench_.driver().try_add(recipe.segments(), 0, driver::ChainLayout::kIndirect));
    }
    bench_.driver().publish();
    for (uint32_t taken = 0; taken < DiskBench::kQueueSize; taken += BlkQueue::kSubmitMax) {
        EXPECT_EQ(bench_.process(), QueueProgress::kMore);
    }
    EXPECT_EQ(bench_.process(), QueueProgress::kDrained);
    EXPECT_EQ(image_->held(), DiskBench::kQueueSize);
    EXPECT_EQ(bench_.counters().waits.value(), 0U);
    while (image_->held() > 0) {
        image_->end();
    }
}

// --- Stopping: trap 19 ---------------------------------------------------------------------------

TEST_F(BlkDeviceTest, StopsAtOnceWhenIdle) {
    bench_.stop();
    EXPECT_TRUE(bench_.stopped());
    bench_.start();
}

TEST_F(BlkDeviceTest, StopsWhenTheLastRequestIsBack) {
    bench_.add(read_chain(0, 512));
    bench_.add(read_chain(1, 512));
    (void)bench_.process();
    bench_.stop();
    EXPECT_FALSE(bench_.stopped());
    image_->end();
    EXPECT_FALSE(bench_.stopped());
    image_->end();
    EXPECT_TRUE(bench_.stopped());
    EXPECT_EQ(bench_.queue().in_flight(), 0U);
    bench_.start();
}

TEST_F(BlkDeviceTest, ServesAgainAfterARestart) {
    bench_.stop();
    bench_.start();
    const auto recipe = read_chain(0, 512);
    bench_.add(recipe);
    (void)bench_.process();
    image_->end();
    EXPECT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
}

// --- Null image ----------------------------------------------------------------------------------

TEST(NullDisk, AnswersAtOnceAndLeavesTheGuestsMemory) {
    DiskBench bench(std::make_unique<NullImage>(NullImageOptions{.size_bytes = 1 << 20}));
    auto recipe = bench.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_IN, 0)).writable(512).writable(1);
    EXPECT_EQ(bench.answer_to(recipe), VIRTIO_BLK_S_OK);
    EXPECT_EQ(recipe.bytes(1), std::vector<std::byte>(512, std::byte{0xee}));
}

TEST(NullDisk, ReadsZeroesWhenAsked) {
    DiskBench bench(
        std::make_unique<NullImage>(NullImageOptions{.size_bytes = 1 << 20, .read_zeroes = true}));
    auto recipe = bench.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_IN, 0)).writable(512).writable(1);
    EXPECT_EQ(bench.answer_to(recipe), VIRTIO_BLK_S_OK);
    EXPECT_EQ(recipe.bytes(1), std::vector<std::byte>(512, std::byte{0}));
}

TEST(NullDisk, OneTurnPublishesABatchAndAsksForAnother) {
    DiskBench bench(std::make_unique<NullImage>(NullImageOptions{.size_bytes = 1 << 20}));
    auto recipe = bench.chain();
    recipe.readable(header_bytes(VIRTIO_BLK_T_OUT, 0)).readable_zeroes(512).writable(1);
    for (int i = 0; i < DiskBench::kQueueSize; ++i) {
        ASSERT_TRUE(bench.driver().try_add(recipe.segments(), 0, driver::ChainLayout::kIndirect));
    }
    bench.driver().publish();
    EXPECT_EQ(bench.process(), QueueProgress::kMore);
    EXPECT_EQ(bench.counters().completed.value(BlkCommand::kWrite), BlkQueue::kBatchMax);
    EXPECT_EQ(bench.queue().counters().batches_published.value(), 1U);
}

}  // namespace
}  // namespace outrigger::blk
