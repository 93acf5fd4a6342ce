// SPDX-License-Identifier: Apache-2.0
// VIRTIO_F_NOTIFICATION_DATA: a kick may carry data (VIRTIO 1.3, 2.9), which an eventfd or a pipe
// does not deliver faithfully. So only that a kick came means anything, whatever was written.
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

class NotificationData : public SessionTest, public ::testing::WithParamInterface<bool> {
  protected:
    /// A request whose kick is these bytes, and nothing else, is answered.
    void expect_served(std::span<const std::byte> kick) {
        // The worker sleeps: what it does next is for the kick's sake.
        ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
        give_others_a_moment();
        const uint64_t kicks = counters().kicks_received.value();
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
        queue().publish();
        ASSERT_EQ(::write(queue().kick_write_fd(), kick.data(), kick.size()),
                  static_cast<ssize_t>(kick.size()));
        EXPECT_TRUE(eventually([&] { return counters().kicks_received.value() > kicks; }));
        EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
        EXPECT_TRUE(buffers().answered());
        EXPECT_EQ(counters().rings_broken.total(), 0U);
    }

    void expect_served(uint64_t kick) { expect_served(std::as_bytes(std::span(&kick, 1))); }

    static std::vector<std::byte> bytes(size_t count) {
        return std::vector<std::byte>(count, std::byte{0xff});
    }
};

INSTANTIATE_TEST_SUITE_P(Formats, NotificationData, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(NotificationData, IsOfferedAndTaken) {
    run({.packed = GetParam()});
    EXPECT_TRUE(running_.agreement.features.has(driver::kNotificationDataBit));
    expect_echo();
}

TEST_P(NotificationData, AnyValueThroughAnEventfdIsAKick) {
    run({.packed = GetParam()});
    expect_served(1);
    expect_served(0xffff'ffff'ffff'fffe);  // the largest that an eventfd takes
    expect_served(0x8000'0000);
    expect_served(uint64_t{0xffff} << 32 | 7);
}

TEST_P(NotificationData, AnyValueThroughAPipeIsAKick) {
    run({.packed = GetParam(), .notifier = Notifier::Kind::kPipe});
    expect_served(0);
    expect_served(0xffff'ffff'ffff'ffff);
}

TEST_P(NotificationData, AnyNumberOfBytesThroughAPipeIsAKick) {
    run({.packed = GetParam(), .notifier = Notifier::Kind::kPipe});
    expect_served(bytes(4));  // as a driver writes it to its notification address
    expect_served(bytes(1));
    expect_served(bytes(7));
    expect_served(bytes(512));
    expect_served(bytes(513));
    expect_served(bytes(4096));
    // What the large ones left behind is taken, and does not keep the worker awake.
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
