// SPDX-License-Identifier: Apache-2.0
// Rows 47 to 50 of the catalogue of malicious input, and what good drivers do, through a session.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <linux/virtio_blk.h>

#include "tests/integration/blk_test.h"

namespace outrigger::testing {
namespace {

using driver::Segment;

class BlkRequests : public BlkTest {
  protected:
    void expect_good_read(size_t queue_index = 0) {
        EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, 0), writable(512), writable(1)},
                                    queue_index),
                  VIRTIO_BLK_S_OK);
    }
};

TEST_F(BlkRequests, WhatIsWrittenIsReadBack) {
    run();
    const std::vector<std::byte> data(8192, std::byte{0x3c});
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_OUT, 16), readable(data), writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_FLUSH, 0), writable(1)}), VIRTIO_BLK_S_OK);
    const Segment target = writable(8192);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, 16), target, writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(last_length_, 8193U);
    EXPECT_EQ(bytes_of(target), data);
    EXPECT_TRUE(backing_.holds(16 * 512, 8192, 0x3c));
}

TEST_F(BlkRequests, FourQueuesOnTwoWorkersServeOneDisk) {
    run({.worker_count = 2, .queue_count = 4});
    for (size_t i = 0; i < 4; ++i) {
        const std::vector<std::byte> data(4096, static_cast<std::byte>(i + 1));
        EXPECT_EQ(
            status_of_request({header(VIRTIO_BLK_T_OUT, i * 8), readable(data), writable(1)}, i),
            VIRTIO_BLK_S_OK);
        const Segment target = writable(4096);
        EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, i * 8), target, writable(1)}, 3 - i),
                  VIRTIO_BLK_S_OK);
        EXPECT_EQ(bytes_of(target), data);
    }
}

// --- Row 47: header and status -------------------------------------------------------------------

TEST_F(BlkRequests, Row47HeaderSplitOverFiveDescriptorsWorks) {
    run();
    backing_.fill(512, 512, 0x29);
    const Segment whole = header(VIRTIO_BLK_T_IN, 1);
    const auto part = [&](uint32_t offset, uint32_t length) {
        return Segment{driver::offset_by(whole.address, offset), length, false};
    };
    const Segment target = writable(512);
    EXPECT_EQ(
        status_of_request(
            {part(0, 3), part(3, 1), part(4, 8), part(12, 3), part(15, 1), target, writable(1)}),
        VIRTIO_BLK_S_OK);
    EXPECT_EQ(bytes_of(target), std::vector<std::byte>(512, std::byte{0x29}));
}

TEST_F(BlkRequests, Row47HeaderOf15BytesIsAnIoError) {
    run();
    Segment head = header(VIRTIO_BLK_T_IN, 0);
    head.length = 15;
    EXPECT_EQ(status_of_request({head, writable(512), writable(1)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(counters().refused.value(BlkRefusal::kHeaderShort), 1U);
    expect_good_read();
}

TEST_F(BlkRequests, Row47NoHeaderAtAllIsAnIoError) {
    run();
    EXPECT_EQ(status_of_request({writable(1)}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(counters().refused.value(BlkRefusal::kHeaderShort), 1U);
}

TEST_F(BlkRequests, Row47MissingStatusBreaksThatRingAlone) {
    run({.queue_count = 2});
    const std::array segments{header(VIRTIO_BLK_T_FLUSH, 0)};
    ASSERT_TRUE(queue(0).try_add(segments, 0));
    queue(0).publish();
    queue(0).kick();
    EXPECT_TRUE(queue(0).wait_error(driver::after(kPatience)));
    EXPECT_EQ(counters(0).refused.value(BlkRefusal::kNoStatus), 1U);
    EXPECT_TRUE(
        eventually([&] { return host_->counters().rings_broken.value(RingError::kDevice) == 1; }));
    expect_good_read(1);
}

TEST_F(BlkRequests, Row47StatusOfNoBytesBreaksTheRing) {
    run();
    Segment empty = writable(1);
    empty.length = 0;
    const std::array segments{header(VIRTIO_BLK_T_FLUSH, 0), empty};
    ASSERT_TRUE(queue().try_add(segments, 0));
    queue().publish();
    queue().kick();
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kNoStatus), 1U);
}

// --- Row 48: bounds ------------------------------------------------------------------------------

TEST_F(BlkRequests, Row48SectorThatWrapsIsAnIoErrorAndTouchesNothing) {
    run();
    const Segment target = writable(512);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, UINT64_MAX), target, writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, uint64_t{1} << 55), target, writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(bytes_of(target), std::vector<std::byte>(512, std::byte{kUntouched}));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kBeyondEnd), 2U);
    expect_good_read();
}

TEST_F(BlkRequests, Row48WritePastTheEndIsAnIoErrorAndTouchesNothing) {
    run();
    const std::vector<std::byte> data(1024, std::byte{0x3d});
    EXPECT_EQ(status_of_request(
                  {header(VIRTIO_BLK_T_OUT, kDiskBytes / 512 - 1), readable(data), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(backing_.size(), kDiskBytes);
    EXPECT_TRUE(backing_.holds(kDiskBytes - 512, 512, 0));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kBeyondEnd), 1U);
}

TEST_F(BlkRequests, Row48LengthThatIsNoMultipleOf512IsAnIoErrorAndTouchesNothing) {
    run();
    const std::vector<std::byte> data(513, std::byte{0x3d});
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_OUT, 0), readable(data), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_TRUE(backing_.holds(0, 1024, 0));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kUnaligned), 1U);
}

// --- Row 49: types, read-only, cache, segments ---------------------------------------------------

TEST_F(BlkRequests, Row49UnknownTypeIsUnsupported) {
    run();
    EXPECT_EQ(status_of_request({header(77, 0), writable(1)}), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(counters().refused.value(BlkRefusal::kUnknownType), 1U);
}

TEST_F(BlkRequests, Row49WriteToAReadOnlyDiskIsAnIoErrorAndTouchesNothing) {
    run({.read_only = true});
    const std::vector<std::byte> data(512, std::byte{0x3d});
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_OUT, 0), readable(data), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_TRUE(backing_.holds(0, 512, 0));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kReadOnly), 1U);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_FLUSH, 0), writable(1)}), VIRTIO_BLK_S_OK);
    expect_good_read();
}

TEST_F(BlkRequests, Row49CacheModeIsSwitchedByTheDriverAndNothingElse) {
    run();
    const auto cache = [&] { return frontend_->get_config(kWritebackOffset, 1).value().at(0); };
    EXPECT_EQ(cache(), std::byte{1});
    const std::array off{std::byte{0}};
    EXPECT_EQ(frontend_->set_config(kWritebackOffset, off), driver::Answer::kAccepted);
    EXPECT_EQ(cache(), std::byte{0});
    const std::array impossible{std::byte{2}};
    EXPECT_EQ(frontend_->set_config(kWritebackOffset, impossible), driver::Answer::kRefused);
    EXPECT_EQ(cache(), std::byte{0});
    EXPECT_EQ(frontend_->set_config(0, off), driver::Answer::kRefused);
    EXPECT_EQ(host_->counters().refused.value(Refusal::kConfigValue), 2U);
    EXPECT_EQ(frontend_->reset_device(), driver::Answer::kAccepted);
    EXPECT_EQ(cache(), std::byte{0}) << "QEMU goes on to show it, so it must hold";
}

TEST_F(BlkRequests, Row49TooManyDiscardSegmentsAreAnIoErrorAndTouchNothing) {
    backing_.fill(0, 65536, 0x61);
    run();
    if (!discards()) {
        GTEST_SKIP() << "no holes can be made here, so discarding is not offered";
    }
    std::vector<Segment> segments{header(VIRTIO_BLK_T_DISCARD, 0)};
    for (uint64_t i = 0; i <= kBlkRangesMax; ++i) {
        segments.push_back(range(i * 8, 8));
    }
    segments.push_back(writable(1));
    EXPECT_EQ(status_of_request(segments), VIRTIO_BLK_S_IOERR);
    EXPECT_TRUE(backing_.holds(0, 65536, 0x61));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kSegmentCount), 1U);
}

TEST_F(BlkRequests, Row49ReservedFlagsAreUnsupportedAndTouchNothing) {
    backing_.fill(0, 65536, 0x61);
    run();
    EXPECT_EQ(
        status_of_request({header(VIRTIO_BLK_T_WRITE_ZEROES, 0), range(0, 8, 2), writable(1)}),
        VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_DISCARD, 0), range(0, 8, 1), writable(1)}),
              VIRTIO_BLK_S_UNSUPP);
    EXPECT_TRUE(backing_.holds(0, 65536, 0x61));
    EXPECT_EQ(counters().refused.value(BlkRefusal::kReservedFlags), discards() ? 2U : 1U);
}

TEST_F(BlkRequests, DiscardAndZeroingDoWhatTheySay) {
    backing_.fill(0, 1 << 20, 0x61);
    run();
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_WRITE_ZEROES, 0),
                                 range(1, 1),
                                 range(16, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
                                 writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 512, 0x61));
    EXPECT_TRUE(backing_.holds(512, 512, 0));
    EXPECT_TRUE(backing_.holds(1024, 512, 0x61));
    EXPECT_TRUE(backing_.holds(16 * 512, 8 * 512, 0));
    const auto before = backing_.allocated();
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_DISCARD, 0), range(1024, 512), writable(1)}),
              discards() ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(backing_.size(), kDiskBytes);
    if (discards()) {
        EXPECT_LT(backing_.allocated(), before);
    }
}

// --- Row 50: giant requests ----------------------------------------------------------------------

TEST_F(BlkRequests, Row50AThousandZeroingsOf64MiBAreServedAFewAtATime) {
    run({.queue_size = 1024});
    const Segment head = header(VIRTIO_BLK_T_WRITE_ZEROES, 0);
    const Segment first = range(0, 65536, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    const Segment second = range(65536, 65536, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    const std::array segments{head, first, second, writable(1)};
    for (uint64_t i = 0; i < 1024; ++i) {
        ASSERT_TRUE(queue().try_add(segments, i, driver::ChainLayout::kIndirect));
    }
    queue().publish();
    queue().kick();
    for (uint32_t done = 0; done < 1024;) {
        ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
        while (queue().poll_used()) {
            ++done;
        }
    }
    EXPECT_EQ(counters().completed.value(BlkCommand::kWriteZeroes), 1024U);
    // They move no data, so they hold back nothing; the image runs a few at a time.
    EXPECT_EQ(counters().bytes_in_flight.value(), 0U);
}

TEST_F(BlkRequests, Row50ManyReadsOf64MiBWaitForOneAnother) {
    run({.memory_bytes = uint64_t{72} << 20});
    std::vector<Segment> segments{header(VIRTIO_BLK_T_IN, 0)};
    segments.insert(segments.end(), 64, writable(1 << 20));
    segments.push_back(writable(1));
    for (uint64_t i = 0; i < 32; ++i) {
        ASSERT_TRUE(queue().try_add(segments, i, driver::ChainLayout::kIndirect));
    }
    queue().publish_and_kick();
    for (uint32_t done = 0; done < 32;) {
        ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
        while (queue().poll_used()) {
            ++done;
        }
    }
    EXPECT_GT(counters().waits.value(), 0U);
    EXPECT_LT(counters().bytes_in_flight.value(), BlkQueue::kBytesMax + (uint64_t{64} << 20));
    EXPECT_LE(counters().requests_in_flight.value(), 2U);
}

TEST_F(BlkRequests, Row50ReadsOf64MiBAreServed) {
    backing_.fill(0, 4096, 0x62);
    run({.memory_bytes = uint64_t{72} << 20});
    std::vector<Segment> segments{header(VIRTIO_BLK_T_IN, 0)};
    const Segment data = writable(1 << 20);
    for (int i = 0; i < 64; ++i) {
        segments.push_back(data);  // the same megabyte of the guest's, 64 times
    }
    segments.push_back(writable(1));
    EXPECT_EQ(status_of_request(segments), VIRTIO_BLK_S_OK);
    EXPECT_EQ(last_length_, (64U << 20) + 1);
    EXPECT_EQ(counters().bytes_read.value(), 64U << 20);
}

// --- Disconnects and stops under load: trap 19 ---------------------------------------------------

TEST_F(BlkRequests, StoppedQueueHasAnsweredEverythingItTook) {
    run({.queue_size = 128});
    const std::array segments{header(VIRTIO_BLK_T_IN, 0), writable(65536), writable(1)};
    for (uint64_t i = 0; i < 40; ++i) {
        ASSERT_TRUE(queue().try_add(segments, i));
    }
    queue().publish();
    queue().kick();
    const auto base = queue().stop(*frontend_);
    ASSERT_TRUE(base);
    uint32_t answered = 0;
    while (queue().poll_used()) {
        ++answered;
    }
    EXPECT_EQ(answered, *base) << "the base counts what was taken, and all that is answered";
}

TEST_F(BlkRequests, DisconnectUnderLoadEndsTheSessionCleanly) {
    run({.queue_size = 256});
    const std::array segments{header(VIRTIO_BLK_T_IN, 0), writable(65536), writable(1)};
    for (uint64_t i = 0; i < 80; ++i) {
        ASSERT_TRUE(queue().try_add(segments, i));
    }
    queue().publish();
    queue().kick();
    frontend_.reset();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
}

}  // namespace
}  // namespace outrigger::testing
