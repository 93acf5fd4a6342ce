// SPDX-License-Identifier: Apache-2.0
// VIRTIO_F_IN_ORDER over a session: the driver, which takes any chain used out of order for a fault
// of the device, sees what the device answers in another order in the order in which it asked.
#include <array>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "tests/integration/blk_test.h"
#include "tests/integration/catalogue.h"

namespace outrigger::testing {
namespace {

class InOrder : public Catalogue, public ::testing::WithParamInterface<bool> {
  protected:
    void SetUp() override { run({.packed = GetParam(), .in_order = true, .queue_size = 16}); }

    /// The device has `count` more requests, tokens from `first_token` on, and answers none.
    void send_held(uint64_t first_token, uint32_t count) {
        device_.hold(true);
        buffers().fill();
        for (uint64_t i = 0; i < count; ++i) {
            ASSERT_TRUE(queue().try_add(buffers().chain(), first_token + i));
        }
        queue().publish_and_kick();
        ASSERT_TRUE(eventually([&] { return device_.held() == count; }));
    }

    void expect_tokens(uint64_t first, uint64_t count) {
        for (uint64_t token = first; token < first + count; ++token) {
            std::optional<driver::Completion> completion;
            ASSERT_TRUE(eventually([&] { return (completion = queue().poll_used()).has_value(); }));
            EXPECT_EQ(completion->token, token);
            EXPECT_EQ(completion->length, EchoBuffers::kBytes);
        }
        EXPECT_EQ(queue().fault(), driver::DeviceFault::kNone);
    }
};

INSTANTIATE_TEST_SUITE_P(Formats, InOrder, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(InOrder, IsOfferedAndTaken) {
    EXPECT_TRUE(running_.agreement.features.has(driver::kInOrderBit));
    expect_echo();
}

TEST_P(InOrder, AnswersInReverseArriveInOrder) {
    for (uint64_t round = 0; round < 20; ++round) {
        send_held(round * 3, 3);
        device_.hold(false);
        device_.release_held_backwards(QueueIndex{0});
        expect_tokens(round * 3, 3);
    }
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_P(InOrder, StoppedRingHasGivenEverythingBack) {
    send_held(1, 4);
    device_.hold(false);
    const auto base = queue().stop(frontend());
    ASSERT_TRUE(base);
    expect_tokens(1, 4);
    EXPECT_EQ(*base, queue().base());
}

TEST_P(InOrder, ARingWhoseMemoryGoesHasGivenEverythingBack) {
    send_held(1, 4);
    const wire::SingleMemoryRegion removal{.padding = 0, .region = first_region()};
    const wire::Header header{.request = number(FrontendRequest::kRemMemReg),
                              .flags = wire::kVersion | wire::kFlagNeedReply,
                              .size = sizeof removal};
    ASSERT_EQ(frontend().send(header, bytes_of(removal)), Answer::kUnasked);
    device_.hold(false);
    device_.release_held_backwards(QueueIndex{0});
    EXPECT_EQ(frontend().receive_ack(header.request), Answer::kAccepted);
    // At once: the ring is not in the back end's memory any more.
    EXPECT_EQ(queue().in_flight(), 4U);
    expect_tokens(1, 4);
    const auto base = queue().stop(frontend());
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, queue().base());
}

TEST_P(InOrder, ABrokenRingDoesNotHarmTheOther) {
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
    queues().clear();
    frontend().close();
    ASSERT_TRUE(host_->wait_closed());
    reconnect();
    run({.packed = GetParam(), .in_order = true, .queue_count = 2, .queue_size = 16});
    const std::array outside = {driver::Segment{
        .address = GuestAddr{0xdead'0000'0000}, .length = 16, .device_writable = true}};
    send_held(1, 2);
    ASSERT_TRUE(queue().try_add(outside, 3));
    queue().publish_and_kick();
    expect_broken(RingError::kBufferUnmapped);
    device_.hold(false);
    device_.release_held_backwards(QueueIndex{0});
    expect_tokens(1, 2);
    expect_containment_and_recovery();
}

// --- The disk, whose image finishes requests in any order ----------------------------------------

class BlkInOrder : public BlkTest, public ::testing::WithParamInterface<bool> {};

INSTANTIATE_TEST_SUITE_P(Formats, BlkInOrder, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(BlkInOrder, LargeAndSmallRequestsInFlightComeBackInOrder) {
    run({.memory_bytes = 32 << 20, .packed = GetParam(), .in_order = true});
    constexpr uint64_t kDepth = 16;

    struct Request {
        std::vector<driver::Segment> chain;
        uint32_t bytes;
        uint8_t value;
    };

    std::vector<Request> requests;
    for (uint64_t i = 0; i < kDepth; ++i) {
        // Every other one is large, so that small ones overtake it in the host.
        const uint32_t bytes = i % 2 == 0 ? 512 << 10 : 512;
        const auto value = static_cast<uint8_t>(i + 1);
        backing_.fill(i << 20, bytes, value);
        requests.push_back(
            {.chain = {header(VIRTIO_BLK_T_IN, (i << 20) / 512), writable(bytes), writable(1)},
             .bytes = bytes,
             .value = value});
    }
    for (int round = 0; round < 20; ++round) {
        for (uint64_t i = 0; i < kDepth; ++i) {
            ASSERT_TRUE(queue().try_add(requests[i].chain, i));
        }
        queue().publish_and_kick();
        for (uint64_t i = 0; i < kDepth; ++i) {
            ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
            const auto completion = queue().poll_used();
            ASSERT_TRUE(completion) << describe(queue().fault());
            ASSERT_EQ(completion->token, i);
            EXPECT_EQ(completion->length, requests[i].bytes + 1);
            EXPECT_EQ(bytes_of(requests[i].chain[2]).front(), std::byte{VIRTIO_BLK_S_OK});
            EXPECT_EQ(bytes_of(requests[i].chain[1]).back(), std::byte{requests[i].value});
        }
    }
}

}  // namespace
}  // namespace outrigger::testing
