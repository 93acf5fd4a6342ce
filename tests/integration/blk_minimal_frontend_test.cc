// SPDX-License-Identifier: Apache-2.0
// The least that a front end of this field does (Firecracker 1.x): it agrees on VERSION_1,
// EVENT_IDX, RO and perhaps FLUSH, of the protocol's features on CONFIG alone, shares memory by
// SET_MEM_TABLE, never asks for an acknowledgement, and has one split queue of 256 without indirect
// tables. Nothing more may be needed to serve a disk.
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <linux/virtio_blk.h>

#include "tests/integration/blk_test.h"

namespace outrigger::testing {
namespace {

using driver::Answer;
using driver::Segment;

constexpr uint32_t kConfigBytesOfFirecracker = 60;

class BlkMinimalFrontend : public BlkTest {
  protected:
    /// All of the conversation, in Firecracker's order.
    void talk(FeatureSet wanted) {
        driver::Frontend& frontend = *frontend_;
        frontend.set_ack_policy(driver::AckPolicy::kNever);
        ASSERT_EQ(frontend.set_owner(), Answer::kUnasked);
        const FeatureSet offered = frontend.get_features().value();
        features_ = offered & wanted;
        const FeatureSet protocol = frontend.get_protocol_features().value() &
                                    FeatureSet::of({wire::bit(wire::ProtocolFeature::kConfig)});
        ASSERT_EQ(frontend.set_protocol_features(protocol), Answer::kUnasked);
        config_ = frontend.get_config(0, kConfigBytesOfFirecracker).value();
        ASSERT_EQ(config_.size(), kConfigBytesOfFirecracker);
        ASSERT_EQ(frontend.set_features(features_), Answer::kUnasked);
        ASSERT_EQ(frontend.set_mem_table(memory_), Answer::kUnasked);
        running_.queues.push_back(
            driver::DriverQueue::create(memory_,
                                        {.index = 0,
                                         .packed = false,
                                         .ring = {.size = 256,
                                                  .event_idx = features_.has(driver::kEventIdxBit),
                                                  .indirect_segments_max = 0}})
                .value());
        ASSERT_EQ(frontend.set_vring_num(0, 256), Answer::kUnasked);
        ASSERT_EQ(frontend.set_vring_addr(queue().vring_address(memory_)), Answer::kUnasked);
        ASSERT_EQ(frontend.set_vring_base(0, 0), Answer::kUnasked);
        ASSERT_EQ(frontend.set_vring_call(0, queue().call_fd()), Answer::kUnasked);
        ASSERT_EQ(frontend.set_vring_kick(0, queue().kick_fd()), Answer::kUnasked);
        ASSERT_EQ(frontend.set_vring_enable(0, 1), Answer::kUnasked);
    }

    static FeatureSet minimum() {
        return FeatureSet::of({driver::kVersion1Bit,
                               driver::kEventIdxBit,
                               wire::kProtocolFeaturesBit,
                               VIRTIO_BLK_F_RO});
    }

    int write(uint64_t sector, size_t size, int value) {
        return status_of_request({header(VIRTIO_BLK_T_OUT, sector),
                                  readable(std::vector<std::byte>(size, std::byte(value))),
                                  writable(1)});
    }

    FeatureSet features_;
    std::vector<std::byte> config_;
};

TEST_F(BlkMinimalFrontend, ReadsAndWrites) {
    serve({});
    talk(minimum().with(VIRTIO_BLK_F_FLUSH));
    uint64_t capacity = 0;
    std::memcpy(&capacity, config_.data(), sizeof capacity);
    EXPECT_EQ(capacity, kDiskBytes / 512);
    EXPECT_EQ(write(8, 65536, 0x3c), VIRTIO_BLK_S_OK);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_FLUSH, 0), writable(1)}), VIRTIO_BLK_S_OK);
    const Segment target = writable(65536);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, 8), target, writable(1)}),
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(bytes_of(target), std::vector<std::byte>(65536, std::byte{0x3c}));
    EXPECT_TRUE(backing_.holds(4096, 65536, 0x3c));
}

TEST_F(BlkMinimalFrontend, WholeRingOfSingleBuffersIsServed) {
    serve({});
    talk(minimum());
    const std::array segments{header(VIRTIO_BLK_T_IN, 0), writable(4096), writable(1)};
    uint32_t done = 0;
    for (int round = 0; round < 20; ++round) {
        uint32_t added = 0;
        while (queue().try_add(segments, 0)) {
            ++added;
        }
        EXPECT_EQ(added, 85U) << "three descriptors each";
        queue().publish_and_kick();
        for (done = 0; done < added;) {
            if (queue().poll_used()) {
                ++done;
            } else {
                ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
            }
        }
    }
    EXPECT_EQ(counters().completed.value(BlkCommand::kRead), 20U * 85);
}

TEST_F(BlkMinimalFrontend, RequestsWithoutSegMaxMayHaveManyBuffers) {
    serve({});
    talk(minimum());
    EXPECT_FALSE(features_.has(VIRTIO_BLK_F_SEG_MAX));
    std::vector<Segment> segments{header(VIRTIO_BLK_T_OUT, 0)};
    for (int i = 0; i < 60; ++i) {
        segments.push_back(readable(std::vector<std::byte>(512, std::byte(i + 1))));
    }
    segments.push_back(writable(1));
    EXPECT_EQ(status_of_request(segments), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 512, 1));
    EXPECT_TRUE(backing_.holds(59 * 512, 512, 60));
}

TEST_F(BlkMinimalFrontend, WithoutFlushWritesAreStable) {
    serve({});
    talk(minimum());
    EXPECT_EQ(frontend_->get_config(kWritebackOffset, 1).value().at(0), std::byte{0});
    EXPECT_EQ(write(0, 4096, 0x3d), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(backing_.holds(0, 4096, 0x3d));
}

TEST_F(BlkMinimalFrontend, ReadOnlyIsWhatItAgreesOn) {
    serve({.read_only = true});
    talk(minimum());
    EXPECT_TRUE(features_.has(VIRTIO_BLK_F_RO));
    EXPECT_EQ(write(0, 512, 0x3d), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkMinimalFrontend, StopsByGetVringBaseAlone) {
    serve({});
    talk(minimum());
    EXPECT_EQ(write(0, 512, 0x3d), VIRTIO_BLK_S_OK);
    EXPECT_EQ(frontend_->get_vring_base(0).value(), 1U);
}

}  // namespace
}  // namespace outrigger::testing
