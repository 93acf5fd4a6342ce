// SPDX-License-Identifier: Apache-2.0
// Both memory models, seen from the front end.
#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

using driver::RegionId;

constexpr GuestAddr kSecondRegion{0x1000'0000};
constexpr uint64_t kRegionBytes = 1 << 20;

class MemoryMessages : public SessionTest {
  protected:
    RegionId add_second_region() {
        return memory_.add_region({.guest_address = kSecondRegion, .size = kRegionBytes}).value();
    }
};

TEST_F(MemoryMessages, GetMaxMemSlotsIs509) {
    negotiate();
    EXPECT_EQ(frontend().get_max_mem_slots().value(), 509U);
}

TEST_F(MemoryMessages, SetMemTableGivesAllRegionsAtOnce) {
    negotiate();
    const RegionId second = add_second_region();
    EXPECT_EQ(frontend().set_mem_table(memory_), Answer::kAccepted);
    const EchoBuffers in_second(memory_, second);
    auto created = driver::create_queue(memory_, running_.agreement, {}, 0);
    ASSERT_TRUE(created);
    EXPECT_EQ(created->start(frontend(), memory_), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EchoBuffers echoed = in_second;
    EXPECT_EQ(echo_problem(*created, echoed), "");
}

TEST_F(MemoryMessages, SetMemTableAgainReplacesTheTableUnderARunningRing) {
    run();
    expect_echo();
    const RegionId second = add_second_region();
    EXPECT_EQ(frontend().set_mem_table(memory_), Answer::kAccepted);
    EchoBuffers in_second(memory_, second);
    EXPECT_EQ(echo_problem(queue(), in_second), "");
}

TEST_F(MemoryMessages, SetMemTableWithMoreOrFewerDescriptorsThanRegionsCloses) {
    negotiate();
    const auto region = memory_.description(memory_.regions()[0]);
    EXPECT_EQ(frontend().set_mem_table(std::span(&region, 1), {}), Answer::kClosed);
    expect_close_and_next_session(CloseReason::kFdCount);
}

TEST_F(MemoryMessages, SetMemTableWhoseCountDoesNotFitItsSizeCloses) {
    negotiate();
    const wire::MemoryTableHeader header{.region_count = 3, .padding = 0};
    EXPECT_EQ(frontend().call(number(FrontendRequest::kSetMemTable), bytes_of(header)),
              Answer::kClosed);
    expect_close_and_next_session(CloseReason::kPayloadSize);
}

TEST_F(MemoryMessages, AddMemRegAddsOneRegionToARunningRing) {
    run();
    const RegionId second = add_second_region();
    EXPECT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    EchoBuffers in_second(memory_, second);
    EXPECT_EQ(echo_problem(queue(), in_second), "");
}

TEST_F(MemoryMessages, AddMemRegRefusesOverlapInGuestAddresses) {
    run();
    auto region = memory_.description(memory_.regions()[0]);
    region.user_address += 1ULL << 40;
    region.guest_address += region.size - 0x1000;
    expect_refusal(Refusal::kMemoryTable, [&] {
        return frontend().add_mem_reg(region, memory_.fd(memory_.regions()[0]));
    });
    expect_echo();
}

TEST_F(MemoryMessages, AddMemRegRefusesOverlapInUserAddresses) {
    run();
    auto region = memory_.description(memory_.regions()[0]);
    region.guest_address = static_cast<uint64_t>(kSecondRegion);
    region.user_address += region.size - 0x1000;
    expect_refusal(Refusal::kMemoryTable, [&] {
        return frontend().add_mem_reg(region, memory_.fd(memory_.regions()[0]));
    });
    expect_echo();
}

TEST_F(MemoryMessages, AddMemRegWithoutADescriptorCloses) {
    negotiate();
    const auto region = memory_.description(memory_.regions()[0]);
    EXPECT_EQ(frontend().add_mem_reg(region, -1), Answer::kClosed);
    expect_close_and_next_session(CloseReason::kFdCount);
}

TEST_F(MemoryMessages, RemMemRegTakesTheRegionAway) {
    run();
    const RegionId second = add_second_region();
    ASSERT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    EXPECT_EQ(frontend().rem_mem_reg(memory_, second), Answer::kAccepted);
    expect_echo();
    // A buffer there is now outside guest memory.
    EchoBuffers in_second(memory_, second);
    ASSERT_TRUE(queue().try_add(in_second.chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    EXPECT_TRUE(
        eventually([&] { return counters().rings_broken.value(RingError::kBufferUnmapped) == 1; }));
}

TEST_F(MemoryMessages, RemMemRegMatchesGuestAddressUserAddressAndSize) {
    run();
    const auto region = memory_.description(memory_.regions()[0]);
    auto other_guest = region;
    other_guest.guest_address += 0x1000;
    auto other_user = region;
    other_user.user_address += 0x1000;
    auto other_size = region;
    other_size.size -= 0x1000;
    expect_refusal(Refusal::kMemoryTable, [&] { return frontend().rem_mem_reg(other_guest); });
    expect_refusal(Refusal::kMemoryTable, [&] { return frontend().rem_mem_reg(other_user); });
    expect_refusal(Refusal::kMemoryTable, [&] { return frontend().rem_mem_reg(other_size); });
    expect_echo();
}

// "A ring may be briefly unmapped between REM and ADD": it waits, and goes on where it was.
TEST_F(MemoryMessages, ARingWhoseMemoryGoesAndComesBackGoesOn) {
    run();
    expect_echo();
    const RegionId only = memory_.regions()[0];
    EXPECT_EQ(frontend().rem_mem_reg(memory_, only), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 5));
    queue().publish_and_kick();
    give_others_a_moment();
    EXPECT_FALSE(queue().poll_used());
    EXPECT_EQ(frontend().add_mem_reg(memory_, only), Answer::kAccepted);
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(queue().poll_used().value().token, 5U);
    EXPECT_TRUE(buffers().answered());
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

// A device may keep a request for as long as it likes, until it is told to bring it back.
TEST_F(MemoryMessages, ASessionThatWaitsForMemoryCanBeClosed) {
    run();
    device_.hold(true);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 5));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    device_.hold(false);
    const wire::SingleMemoryRegion removal{.padding = 0,
                                           .region = memory_.description(memory_.regions()[0])};
    ASSERT_EQ(frontend().send({.request = number(FrontendRequest::kRemMemReg),
                               .flags = wire::kVersion | wire::kFlagNeedReply,
                               .size = sizeof removal},
                              bytes_of(removal)),
              Answer::kUnasked);
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    host_->close_session();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
    EXPECT_EQ(device_.held(), 0U);
}

// QEMU before 8.0 does it, once for each pair of a network device's queues.
TEST_F(MemoryMessages, ARegionMayBeAddedAgain) {
    run();
    const RegionId second = add_second_region();
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    }
    EXPECT_EQ(frontend().add_mem_reg(memory_, memory_.regions()[0]), Answer::kAccepted);
    EchoBuffers in_second(memory_, second);
    EXPECT_EQ(echo_problem(queue(), in_second), "");
}

TEST_F(MemoryMessages, WhatLiesThereInAnotherFileIsNotTheSameRegion) {
    run();
    const RegionId second = add_second_region();
    const RegionId other =
        memory_.add_region({.guest_address = GuestAddr{0x2000'0000}, .size = kRegionBytes}).value();
    ASSERT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    expect_refusal(Refusal::kMemoryTable, [&] {
        return frontend().add_mem_reg(memory_.description(second), memory_.fd(other));
    });
    // Nothing was repeated, so this removal is not either.
    ASSERT_EQ(frontend().rem_mem_reg(memory_, second), Answer::kAccepted);
    expect_refusal(Refusal::kMemoryTable, [&] { return frontend().rem_mem_reg(memory_, second); });
    expect_echo();
}

TEST_F(MemoryMessages, WhatLiesElsewhereInItsFileIsNotTheSameRegion) {
    run();
    auto region = memory_.description(memory_.regions()[0]);
    region.size -= 0x1000;
    const RegionId second = add_second_region();
    auto shifted = memory_.description(second);
    shifted.size -= 0x1000;
    ASSERT_EQ(frontend().add_mem_reg(shifted, memory_.fd(second)), Answer::kAccepted);
    shifted.mmap_offset += 0x1000;
    expect_refusal(Refusal::kMemoryTable,
                   [&] { return frontend().add_mem_reg(shifted, memory_.fd(second)); });
    expect_refusal(Refusal::kMemoryTable, [&] {
        return frontend().add_mem_reg(region, memory_.fd(memory_.regions()[0]));
    });
    expect_echo();
}

TEST_F(MemoryMessages, TheFirstRemovalOfARepeatedRegionTakesItAwayAndTheOthersAreTaken) {
    run();
    const RegionId second = add_second_region();
    ASSERT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    ASSERT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    EXPECT_EQ(frontend().rem_mem_reg(memory_, second), Answer::kAccepted);
    // What the first pair has in its place, half of which was its own.
    auto half = memory_.description(second);
    half.size /= 2;
    EXPECT_EQ(frontend().add_mem_reg(half, memory_.fd(second)), Answer::kAccepted);
    EXPECT_EQ(frontend().rem_mem_reg(memory_, second), Answer::kAccepted);
    EXPECT_EQ(frontend().add_mem_reg(half, memory_.fd(second)), Answer::kAccepted);
    EchoBuffers in_half(memory_, second);
    EXPECT_EQ(echo_problem(queue(), in_half), "");
    EXPECT_EQ(frontend().rem_mem_reg(half), Answer::kAccepted);
    ASSERT_TRUE(queue().try_add(in_half.chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
}

class FewMemorySlots : public SessionTest {
  protected:
    FewMemorySlots()
        : SessionTest(
              EchoDeviceOptions{},
              SessionHostOptions{.session = {.message_timeout = kPatience, .memory_slots = 2}}) {}
};

TEST_F(FewMemorySlots, AddMemRegRefusesOneRegionMoreThanThereAreSlots) {
    run();
    EXPECT_EQ(frontend().get_max_mem_slots().value(), 2U);
    for (const bool fits : {true, false}) {
        const GuestAddr start{fits ? 0x1000'0000U : 0x2000'0000U};
        const auto id = memory_.add_region({.guest_address = start, .size = 0x1000}).value();
        if (fits) {
            EXPECT_EQ(frontend().add_mem_reg(memory_, id), Answer::kAccepted);
        } else {
            expect_refusal(Refusal::kMemoryTable,
                           [&] { return frontend().add_mem_reg(memory_, id); });
        }
    }
    expect_echo();
}

TEST_F(FewMemorySlots, ARegionThatIsAddedAgainTakesNoSlot) {
    run();
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(frontend().add_mem_reg(memory_, memory_.regions()[0]), Answer::kAccepted);
    }
    const auto id = memory_.add_region({.guest_address = kSecondRegion, .size = 0x1000}).value();
    EXPECT_EQ(frontend().add_mem_reg(memory_, id), Answer::kAccepted);
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
