// SPDX-License-Identifier: Apache-2.0
/// Devices that pop from a queue beside its turn: frames that come from another guest, say.
#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

struct Ring {
    bool packed;
    bool event_idx;
};

class OutOfTurn : public SessionTest, public ::testing::WithParamInterface<Ring> {};

/// With event indices the place at which a kick is asked for is passed then.
TEST_P(OutOfTurn, TheNextRequestIsKickedForAllTheSame) {
    run({.packed = GetParam().packed, .event_idx = GetParam().event_idx});
    ASSERT_FALSE(HasFatalFailure());
    expect_echo();
    for (int i = 0; i < 20; ++i) {
        // Its kick has not come yet.
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
        queue().publish();
        (void)queue().kick_needed();
        device_.serve_out_of_turn(QueueIndex{0});
        ASSERT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
        expect_echo();
    }
}

INSTANTIATE_TEST_SUITE_P(
    Rings,
    OutOfTurn,
    ::testing::Values(Ring{false, false}, Ring{false, true}, Ring{true, false}, Ring{true, true}),
    [](const auto& ring) {
        return std::string(ring.param.packed ? "Packed" : "Split") +
               (ring.param.event_idx ? "EventIdx" : "");
    });

}  // namespace
}  // namespace outrigger::testing
