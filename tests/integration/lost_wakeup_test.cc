// SPDX-License-Identifier: Apache-2.0
// Rings that nothing would wake: every way in which a ring can go to sleep, and a request that
// comes afterwards.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

using driver::Segment;

struct RingKind {
    bool packed = false;
    bool event_idx = false;
};

class LostWakeup : public SessionTest, public ::testing::WithParamInterface<RingKind> {
  protected:
    [[nodiscard]] static driver::BringUpOptions options() {
        return {.packed = GetParam().packed,
                .event_idx = GetParam().event_idx,
                .indirect_segments_max = 1024,
                .queue_size = 8};
    }

    // What a device that went away in the middle of its work leaves in the ring.
    void suppress_kicks_by_hand() {
        if (GetParam().packed) {
            constexpr uint32_t kDisable = 1U << 16;
            memory_.write(queue().packed()->addresses().device_area, bytes_of(kDisable));
            return;
        }
        const GuestAddr used = queue().split()->addresses().device_area;
        constexpr uint16_t kNoNotify = 1;
        constexpr uint16_t kFarAway = 0x8000;
        if (GetParam().event_idx) {
            memory_.write(driver::offset_by(used, 4 + 8 * uint64_t{queue().size()}),
                          bytes_of(kFarAway));
        } else {
            memory_.write(used, bytes_of(kNoNotify));
        }
    }
};

INSTANTIATE_TEST_SUITE_P(Kinds,
                         LostWakeup,
                         ::testing::Values(RingKind{.packed = false, .event_idx = false},
                                           RingKind{.packed = false, .event_idx = true},
                                           RingKind{.packed = true, .event_idx = false},
                                           RingKind{.packed = true, .event_idx = true}),
                         [](const auto& kind) {
                             return std::string(kind.param.packed ? "Packed" : "Split") +
                                    (kind.param.event_idx ? "EventIdx" : "Flags");
                         });

// The ring holds back because chains in flight take too much memory. When they are done nothing is
// left to do, and the next request must find kicks armed.
TEST_P(LostWakeup, ARingThatHeldBackTakesKicksAgain) {
    run(options());
    expect_echo();
    device_.hold(true);
    // Four chains of 1024 buffers are as much as a ring of this size may have out.
    const auto byte = memory_.allocate(1, 1).value();
    std::vector<Segment> segments;
    for (size_t i = 0; i < 1024; ++i) {
        segments.push_back({.address = byte, .length = 1, .device_writable = i >= 512});
    }
    for (uint64_t token = 0; token < 4; ++token) {
        ASSERT_TRUE(queue().try_add(segments, token, driver::ChainLayout::kIndirect));
    }
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 4; }));
    give_others_a_moment();  // the worker goes to sleep
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    size_t used = 0;
    ASSERT_TRUE(eventually([&] {
        used += queue().poll_used() ? 1U : 0U;
        return used == 4;
    }));
    give_others_a_moment();
    expect_echo();
}

// Whoever served the ring before may have left kicks suppressed. While the ring is not in memory
// they cannot be armed, so they must be once it is.
TEST_P(LostWakeup, ARingThatWentToSleepUnmappedTakesKicksOnceItIsMapped) {
    auto disabled = options();
    disabled.enable = false;
    run(disabled);
    const auto only = memory_.regions().at(0);
    ASSERT_EQ(frontend().rem_mem_reg(memory_, only), Answer::kAccepted);
    suppress_kicks_by_hand();
    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    give_others_a_moment();
    ASSERT_EQ(frontend().add_mem_reg(memory_, only), Answer::kAccepted);
    give_others_a_moment();
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
