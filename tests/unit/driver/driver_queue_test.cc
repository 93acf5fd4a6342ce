// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/driver_queue.h"

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::driver {
namespace {

class CallsTest : public ::testing::TestWithParam<Notifier::Kind> {
  protected:
    void call(uint64_t times) {
        for (uint64_t i = 0; i < times; ++i) {
            const uint64_t one = 1;
            ASSERT_EQ(::write(queue_.call_fd(), &one, sizeof one), ssize_t{sizeof one});
        }
    }

    GuestMemory memory_ = GuestMemory::create(1 << 20).value();
    DriverQueue queue_ =
        DriverQueue::create(memory_, {.ring = {.size = 16}, .notifier = GetParam()}).value();
};

TEST_P(CallsTest, AreCountedOnce) {
    call(3);

    EXPECT_EQ(queue_.take_calls(), 3U);
    EXPECT_EQ(queue_.take_calls(), 0U);
}

TEST_P(CallsTest, AreNotWaitedForWhereTheBackEndMadeReadsWait) {
    ASSERT_EQ(::fcntl(queue_.call_read_fd(), F_SETFL, 0), 0);
    call(2);

    EXPECT_EQ(queue_.take_calls(), 2U);
    EXPECT_EQ(queue_.take_calls(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Notifiers,
                         CallsTest,
                         ::testing::Values(Notifier::Kind::kDefault, Notifier::Kind::kPipe));

}  // namespace
}  // namespace outrigger::driver
