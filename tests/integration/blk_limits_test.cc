// SPDX-License-Identifier: Apache-2.0
// Limits of a running disk. What passes is counted against the time that really went by, so a slow
// machine fails nothing: it only ever lets less pass.
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/integration/blk_control.h"

namespace outrigger::testing {
namespace {

using Clock = std::chrono::steady_clock;

std::function<void(v1::Request&)> limit_operations(uint64_t per_second, uint64_t burst = 0) {
    return [=](v1::Request& request) {
        v1::Rate& rate = *request.mutable_set_limits()->mutable_limits()->mutable_operations();
        rate.set_per_second(per_second);
        rate.set_burst(burst);
    };
}

class BlkLimits : public BlkControlTest {
  protected:
    /// What is counted: requests that end while all slots are kept full.
    struct Load {
        uint64_t requests = 0;
        double seconds = 0;
    };

    static Load run_load(ControlGuest& guest,
                         std::chrono::milliseconds duration,
                         uint32_t type = VIRTIO_BLK_T_OUT,
                         uint32_t bytes = 4096) {
        Load load;
        const auto began = Clock::now();
        for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
            guest.submit(slot, type, uint64_t{slot} * bytes, bytes);
        }
        while (Clock::now() - began < duration) {
            const auto slot = guest.wait_answer(std::chrono::milliseconds(100));
            if (slot) {
                EXPECT_EQ(guest.status(*slot), VIRTIO_BLK_S_OK);
                ++load.requests;
                guest.submit(*slot, type, uint64_t{*slot} * bytes, bytes);
            }
        }
        load.seconds = std::chrono::duration<double>(Clock::now() - began).count();
        return load;
    }
};

TEST_F(BlkLimits, OperationsPassAtTheirRateAndNoFaster) {
    start({"--limit-ops=200:20"});
    ControlGuest guest = connect();
    const Load load = run_load(guest, std::chrono::seconds(3));
    // The burst, one request that is paid for afterwards, and one of rounding.
    EXPECT_LE(static_cast<double>(load.requests), 200 * load.seconds + 22);
    EXPECT_GE(load.requests, 50U) << "a limit is no stop";
    const v1::BlockDevice block = this->block();
    EXPECT_GT(block.counters().throttled_requests(), 0U);
    EXPECT_GT(block.counters().throttled_nanoseconds(), 500'000'000U) << "of three seconds";
    EXPECT_EQ(block.limits().operations().per_second(), 200U);
    EXPECT_EQ(block.limits().operations().burst(), 20U);
}

TEST_F(BlkLimits, BytesPassAtTheirRateAndNoFaster) {
    start({"--limit-bytes=8M:1M"});
    ControlGuest guest = connect();
    const Load load = run_load(guest, std::chrono::seconds(2), VIRTIO_BLK_T_OUT, 65536);
    const double bytes = static_cast<double>(load.requests) * 65536;
    EXPECT_LE(bytes, (8 << 20) * load.seconds + (1 << 20) + 2 * 65536);
    EXPECT_GE(load.requests, 40U);
}

TEST_F(BlkLimits, ADirectionWithoutALimitGoesOn) {
    start({"--limit-write-ops=1:1"});
    ControlGuest guest = connect();
    // All but two of the slots wait with writes.
    for (uint32_t slot = 1; slot < ControlGuest::kSlots; ++slot) {
        guest.submit(slot, VIRTIO_BLK_T_OUT, uint64_t{slot} * 4096);
    }
    uint64_t reads = 0;
    for (int i = 0; i < 500; ++i) {
        guest.submit(0, VIRTIO_BLK_T_IN, 0);
        std::optional<uint32_t> answered;
        do {
            answered = guest.wait_answer();
            ASSERT_TRUE(answered);
        } while (*answered != 0);
        ++reads;
    }
    EXPECT_EQ(reads, 500U);
    EXPECT_LT(block().counters().writes(), ControlGuest::kSlots - 1U);
}

TEST_F(BlkLimits, ALimitEndsWhenItIsTakenAway) {
    start();
    ControlGuest guest = connect();
    EXPECT_TRUE(ask(limit_operations(1, 1)).has_done());
    for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
        guest.submit(slot, VIRTIO_BLK_T_OUT, uint64_t{slot} * 4096);
    }
    // The rest would take half a minute.
    EXPECT_TRUE(ask(limit_operations(0)).has_done());
    for (uint32_t i = 0; i < ControlGuest::kSlots; ++i) {
        ASSERT_TRUE(guest.wait_answer());
    }
    EXPECT_EQ(block().limits().operations().per_second(), 0U);
}

TEST_F(BlkLimits, WaitingRequestsEndWhenTheRingIsStopped) {
    start({"--limit-write-bytes=1:1"});
    ControlGuest guest = connect();
    for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
        guest.submit(slot, VIRTIO_BLK_T_OUT, uint64_t{slot} * 4096);
    }
    ASSERT_TRUE(guest.wait_answer()) << "the first passes, and the others have an hour to wait";
    ASSERT_TRUE(eventually([&] { return block().counters().throttled_requests() > 0; }));
    const auto base = guest.queue().stop(guest.frontend());
    ASSERT_TRUE(base);
    uint32_t answered = 1;
    while (const auto used = guest.queue().poll_used()) {
        EXPECT_EQ(guest.status(static_cast<uint32_t>(used->token)), VIRTIO_BLK_S_OK);
        ++answered;
    }
    EXPECT_EQ(*base, static_cast<uint16_t>(answered));
}

TEST_F(BlkLimits, WaitingRequestsEndWhenMemoryIsTakenAway) {
    start({"--limit-write-bytes=1:1"});
    ControlGuest guest = connect();
    for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
        guest.submit(slot, VIRTIO_BLK_T_OUT, uint64_t{slot} * 4096);
    }
    ASSERT_TRUE(guest.wait_answer());
    ASSERT_TRUE(eventually([&] { return block().counters().throttled_requests() >= 31; }));
    EXPECT_EQ(guest.frontend().rem_mem_reg(guest.memory(), guest.data_region()),
              driver::Answer::kAccepted);
    for (uint32_t i = 1; i < ControlGuest::kSlots; ++i) {
        const auto slot = guest.wait_answer();
        ASSERT_TRUE(slot);
        EXPECT_EQ(guest.status(*slot), VIRTIO_BLK_S_OK);
    }
}

TEST_F(BlkLimits, GuestThatLeavesWhileItsRequestsWaitHoldsNobodyUp) {
    start({"--limit-ops=1:1"});
    {
        ControlGuest guest = connect();
        for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
            guest.submit(slot, VIRTIO_BLK_T_OUT, uint64_t{slot} * 4096);
        }
        ASSERT_TRUE(guest.wait_answer());
    }
    EXPECT_TRUE(ask(limit_operations(0)).has_done());
    ControlGuest next = connect();
    EXPECT_EQ(next.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
}

TEST_F(BlkLimits, DisksOfAGroupShareItsLimits) {
    const std::string other = (folder_ / "other.sock").string();
    start({"--limit-group=tenant",
           "--device",
           "socket-path=" + socket_path() + ",null-size=64M,limit-ops=200:20",
           "--device",
           "socket-path=" + other + ",null-size=64M"});
    EXPECT_EQ(block("blk1").limits().operations().per_second(), 200U);
    EXPECT_EQ(block("blk1").limit_group(), "tenant");
    ControlGuest first = connect();
    ControlGuest second = connect_to(other);
    const auto began = Clock::now();
    uint64_t requests[2] = {};
    for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
        first.submit(slot, VIRTIO_BLK_T_IN, 0);
        second.submit(slot, VIRTIO_BLK_T_IN, 0);
    }
    while (Clock::now() - began < std::chrono::seconds(3)) {
        for (ControlGuest* const guest : {&first, &second}) {
            if (const auto slot = guest->wait_answer(std::chrono::milliseconds(2))) {
                ++requests[guest == &second];
                guest->submit(*slot, VIRTIO_BLK_T_IN, 0);
            }
        }
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    EXPECT_LE(static_cast<double>(requests[0] + requests[1]), 200 * seconds + 24);
    EXPECT_GE(requests[0], 20U) << "each has its turns";
    EXPECT_GE(requests[1], 20U);
}

TEST_F(BlkLimits, ADiskJoinsAndLeavesAGroup) {
    const std::string other = (folder_ / "other.sock").string();
    start({"--device",
           "socket-path=" + socket_path() + ",null-size=64M,limit-ops=200,limit-group=g",
           "--device",
           "socket-path=" + other + ",null-size=64M"});
    v1::Request join;
    join.set_device("blk1");
    join.mutable_set_limits()->set_group("g");
    EXPECT_TRUE(ask(join).has_done());
    EXPECT_EQ(block("blk1").limits().operations().per_second(), 200U);
    v1::Request change;
    change.set_device("blk1");
    change.mutable_set_limits()->mutable_limits()->mutable_read_bytes()->set_per_second(1000);
    EXPECT_TRUE(ask(change).has_done());
    EXPECT_EQ(block("blk0").limits().read_bytes().per_second(), 1000U) << "the group's";
    EXPECT_EQ(block("blk0").limits().operations().per_second(), 200U) << "not named, so kept";
    join.mutable_set_limits()->set_group("");
    EXPECT_TRUE(ask(join).has_done());
    EXPECT_EQ(block("blk1").limits().operations().per_second(), 0U);
    EXPECT_EQ(block("blk0").limits().operations().per_second(), 200U);
    join.mutable_set_limits()->set_group("no such/name");
    EXPECT_EQ(ask(join).error().code(), v1::Error::INVALID);
}

TEST_F(BlkLimits, ABurstWithoutARateIsRefused) {
    start();
    ASSERT_TRUE(ask(limit_operations(200, 20)).has_done());
    const v1::Reply refused = ask(limit_operations(0, 5));
    EXPECT_EQ(refused.error().code(), v1::Error::INVALID);
    EXPECT_EQ(refused.error().message(), "a burst needs a rate");
    EXPECT_EQ(block().limits().operations().per_second(), 200U);
}

TEST_F(BlkLimits, HostileRatesAreJustRates) {
    start();
    ControlGuest guest = connect();
    const uint64_t kRates[] = {1, UINT64_MAX, UINT64_MAX / 2, 1'000'000'007};
    for (const uint64_t rate : kRates) {
        for (const uint64_t burst : kRates) {
            EXPECT_TRUE(ask(limit_operations(rate, burst)).has_done());
            v1::Request bytes;
            bytes.mutable_set_limits()->mutable_limits()->mutable_bytes()->set_per_second(rate);
            bytes.mutable_set_limits()->mutable_limits()->mutable_bytes()->set_burst(burst);
            EXPECT_TRUE(ask(bytes).has_done());
            EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK)
                << "a full bucket lets one pass";
        }
    }
}

}  // namespace
}  // namespace outrigger::testing
